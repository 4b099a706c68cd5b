//! Rules in the Common Expression Language.

use std::collections::BTreeMap;
use std::fmt;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use serde::{Deserialize, Serialize};

/// A rule for inference requests: the first one whose `when` is true decides, and the others are not looked at.
///
/// Expressions are in the Common Expression Language, at most 16384 bytes each. They see `request.method`, `request.path` (without the query),
/// `request.query` and `request.headers` (maps from names to strings; header names in lower case, several values joined by commas), `request.body`
/// (a string), `body` (the JSON object) and `now` (a timestamp). `json(TEXT)` reads JSON. A rule that fails to evaluate is counted and passed over.
///
/// So that a request cannot make them slow: members of the body (and `request.body`) above 262144 bytes are not there, and fail the rule that
/// asks for them. Nor are the longest ones where the members that rules name have more than 1048576 bytes (1 MiB) or 32768 values in total. Where any rule
/// uses a macro (`all`, `exists`, `exists_one`, `filter`, `map`) the limit of a member is 65536 bytes and 1024 entries of a list or map; a macro may not stand
/// inside another one, nor `+` and `json` inside a macro. The pattern of `matches` is a literal.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Rule {
    /// An expression that is true for the requests that the rule is for. The default is all.
    pub when: Option<String>,
    /// The model to look up instead of the one in the body: a name that clients may ask for.
    pub model: Option<Outcome>,
    /// The pool that the request goes to. A model that it does not serve is then passed on as it stands.
    pub pool: Option<Outcome>,
    /// The request's priority; it goes before the objective's and the model's.
    pub priority: Option<i64>,
    /// Request headers to set, after the plugin's own.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub headers: BTreeMap<String, Outcome>,
}

/// What a rule sets: a text as it stands, or an expression whose value is one.
#[derive(Clone, Debug, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(untagged)]
pub enum Outcome {
    /// A text.
    Text(String),
    /// An expression.
    Expression(CelExpression),
}

/// An expression whose value is a string.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct CelExpression {
    /// The expression. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub cel: Option<String>,
}

impl<'de> Deserialize<'de> for Outcome {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Outcome, D::Error> {
        struct TextOrExpression;

        impl<'de> Visitor<'de> for TextOrExpression {
            type Value = Outcome;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a text or an object with an expression under \"cel\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Outcome, E> {
                Ok(Outcome::Text(text.to_owned()))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Outcome, A::Error> {
                CelExpression::deserialize(MapAccessDeserializer::new(map)).map(Outcome::Expression)
            }
        }

        deserializer.deserialize_any(TextOrExpression)
    }
}
