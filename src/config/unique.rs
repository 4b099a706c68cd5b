//! Reads JSON and notes members that an object has twice: parsers keep one of the two and say nothing, so that a merge
//! gone wrong would lose a pool.

use std::cell::RefCell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};

/// The value in a text, and the paths of members that are there again.
pub(super) fn read(text: &[u8]) -> serde_json::Result<(Value, Vec<String>)> {
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let repeated = RefCell::new(Vec::new());
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = Node { path: String::new(), repeated: &repeated }.deserialize(&mut deserializer)?;
    deserializer.end()?;
    Ok((value, repeated.into_inner()))
}

/// A place in the document.
struct Node<'r> {
    path: String,
    repeated: &'r RefCell<Vec<String>>,
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        loop {
            let element = Node { path: format!("{}[{}]", self.path, list.len()), repeated: self.repeated };
            match elements.next_element_seed(element)? {
                Some(value) => list.push(value),
                None => return Ok(Value::Array(list)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = members.next_key::<String>()? {
            let path = if self.path.is_empty() { key.clone() } else { format!("{}.{key}", self.path) };
            let value = members.next_value_seed(Node { path: path.clone(), repeated: self.repeated })?;
            if object.insert(key, value).is_some() {
                self.repeated.borrow_mut().push(path);
            }
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::test;

    #[test]
    fn values_are_what_they_are_and_repetitions_are_named() {
        let text = br#" {"a": [1, -2, 2.5, "x", null, true, 18446744073709551615], "b": {"c": {}, "c": [{"d": 1, "d": 2}]}, "a": []} "#;
        let (value, repeated) = read(text).unwrap();
        assert_eq!(value, serde_json::from_slice::<Value>(text).unwrap());
        assert_eq!(repeated, ["b.c[0].d", "b.c", "a"]);
        assert_eq!(read(b"\xef\xbb\xbf[]").unwrap(), (Value::Array(Vec::new()), Vec::new()));
        for bad in [&b"{"[..], b"", b"{} x", b"{\"a\": 1,}", b"[1e999]"] {
            assert_eq!(read(bad).is_err(), serde_json::from_slice::<Value>(bad).is_err());
        }
    }
}
