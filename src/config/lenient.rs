//! Reads the document into [`raw::Config`] without stopping at the first mistake.
//!
//! serde gives up at the first wrong type or unknown key. So each mistake is noted with its path, the
//! offending node is cut out of the document, and reading starts again, until what is left can be read.
//! Every field of the raw types is optional, which is why the rest always can.

use serde_json::Value;
use serde_path_to_error::{Path, Segment};

use super::error::ConfigErrors;
use super::{raw, unique};

/// After this many mistakes the document is probably not ours, and each costs one more reading.
const MAX_MISTAKES: usize = 100;

/// The document as far as it can be read, and what is wrong with the rest.
pub(super) fn read(text: &[u8]) -> (Option<raw::Config>, ConfigErrors) {
    let mut errors = ConfigErrors::default();
    let mut document = match unique::read(text) {
        Ok((document, repeated)) => {
            for path in repeated.into_iter().take(MAX_MISTAKES) {
                errors.push(path, "is there twice: one of the two would have no effect");
            }
            document
        }
        Err(error) => {
            errors.push("", format!("not JSON: {error}"));
            return (None, errors);
        }
    };
    if !document.is_object() {
        errors.push("", "the document must be a JSON object");
        return (None, errors);
    }
    for _ in 0..MAX_MISTAKES {
        match serde_path_to_error::deserialize::<_, raw::Config>(&document) {
            Ok(raw) => return (Some(raw), errors),
            Err(error) => {
                errors.push(path_text(error.path()), error.inner().to_string());
                if !cut(&mut document, error.path()) {
                    return (None, errors);
                }
            }
        }
    }
    errors.push("", format!("gave up after {MAX_MISTAKES} mistakes"));
    (None, errors)
}

fn path_text(path: &Path) -> String {
    if path.iter().next().is_none() { String::new() } else { path.to_string() }
}

/// Removes the node at `path`; an array's element becomes null, so that the others keep their indices.
fn cut(document: &mut Value, path: &Path) -> bool {
    let mut node = document;
    let mut segments = path.iter().peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match (segment, node) {
            (Segment::Map { key }, Value::Object(members)) if last => return members.remove(key).is_some(),
            (Segment::Seq { index }, Value::Array(elements)) if last => {
                return elements.get_mut(*index).is_some_and(|element| !std::mem::take(element).is_null());
            }
            (Segment::Map { key }, Value::Object(members)) => match members.get_mut(key) {
                Some(child) => node = child,
                None => return false,
            },
            (Segment::Seq { index }, Value::Array(elements)) => match elements.get_mut(*index) {
                Some(child) => node = child,
                None => return false,
            },
            _ => return false,
        }
    }
    false
}
