//! What expressions see: the request and its JSON as values of the Common Expression Language, lent and not copied
//! where that is possible.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use cel_interpreter::common::types::{CelBool, CelDouble, CelInt, CelList, CelMap, CelMapKey, CelNull, CelString};
use cel_interpreter::common::types::{CelTimestamp, CelUInt};
use cel_interpreter::common::value::{CowVal, Val};
use cel_interpreter::context::VariableResolver;
use serde_json::Value as Json;

use super::Facts;
use crate::scan::Member;

/// A member of the body above this length is not there for rules: reading it builds a document.
pub(super) const MAX_MEMBER_BYTES: usize = 256 << 10;
/// All members together have at most so many bytes: a body of many long members would build many documents. Those that are
/// longest are not there, then.
const MAX_BYTES: usize = 1 << 20;
/// And so many values, lists, maps and entries: each is an allocation, whose time a body of brackets would multiply.
pub(super) const MAX_VALUES: usize = 32 << 10;
/// The same where rules use macros: each step of one may copy it.
const MAX_MACRO_BYTES: usize = 64 << 10;
/// Neither is one with a longer list or map, then: a macro walks over it.
pub(super) const MAX_ENTRIES: usize = 1024;

#[expect(clippy::disallowed_types, reason = "the language's maps are made of it, and Envoy has entropy")]
type Entries<'v> = std::collections::HashMap<CelMapKey<'v>, Box<dyn Val + 'v>>;

/// The variables of a request's rules; each is built when it is first asked for.
pub(super) struct Variables<'f> {
    facts: &'f Facts<'f>,
    request: OnceLock<CelMap<'f>>,
    body: OnceLock<CelMap<'f>>,
    now: OnceLock<Option<CelTimestamp>>,
}

impl<'f> Variables<'f> {
    pub(super) fn new(facts: &'f Facts<'f>) -> Variables<'f> {
        let (request, body, now) = (OnceLock::new(), OnceLock::new(), OnceLock::new());
        Variables { facts, request, body, now }
    }

    fn body_map(&self) -> CelMap<'f> {
        let mut entries = Entries::new();
        let mut members: Vec<&Member> = self.facts.members.iter().collect();
        members.sort_by_key(|member| member.span.len());
        let (mut bytes, mut values) = (0, 0);
        for member in members {
            let text = self.facts.body.get(member.span.clone()).unwrap_or_default();
            bytes += text.len();
            if bytes > MAX_BYTES || text.len() > self.facts.limit() {
                break;
            }
            let count = if member.is_json { count_values(text) } else { 1 };
            if values + count > MAX_VALUES {
                continue;
            }
            values += count;
            if let Some(value) = self.member(member, text) {
                entries.insert(CelMapKey::String(CelString::from(member.key.clone())), value);
            }
        }
        CelMap::from(entries)
    }

    fn member(&self, member: &Member, text: &'f [u8]) -> Option<Box<dyn Val + 'f>> {
        if !member.is_json {
            return Some(Box::new(CelString::from(std::str::from_utf8(text).ok()?)));
        }
        let json = serde_json::from_slice(text).ok()?;
        if self.facts.has_macros && is_long(&json) {
            return None;
        }
        Some(value(json))
    }
}

impl VariableResolver for Variables<'_> {
    fn resolve<'b>(&'b self, variable: &str) -> Option<CowVal<'b, 'b>> {
        match variable {
            "request" => Some(CowVal::Borrowed(self.request.get_or_init(|| request_map(self.facts)))),
            "body" => Some(CowVal::Borrowed(self.body.get_or_init(|| self.body_map()))),
            "now" => {
                let now = self.now.get_or_init(|| {
                    let since_epoch = i64::try_from(self.facts.now.0).ok()?;
                    Some(CelTimestamp::from(chrono::DateTime::from_timestamp_millis(since_epoch)?.fixed_offset()))
                });
                now.as_ref().map(|now| CowVal::Borrowed(now as &dyn Val))
            }
            _ => None,
        }
    }
}

impl Facts<'_> {
    fn limit(&self) -> usize {
        if self.has_macros { MAX_MACRO_BYTES } else { MAX_MEMBER_BYTES }
    }
}

fn request_map<'f>(facts: &'f Facts<'f>) -> CelMap<'f> {
    let mut request = Entries::new();
    let mut set = |name: &'static str, value: Box<dyn Val + 'f>| {
        request.insert(CelMapKey::String(CelString::from(name)), value);
    };
    set("method", text(facts.method));
    set("path", text(facts.path));
    let mut query = Entries::new();
    for (name, value) in form_urlencoded::parse(facts.query) {
        // Of several with one name the first counts.
        query.entry(CelMapKey::String(owned(name.into_owned()))).or_insert(Box::new(owned(value.into_owned())));
    }
    set("query", Box::new(CelMap::from(query)));
    let mut headers: BTreeMap<&str, Vec<&[u8]>> = BTreeMap::new();
    for (name, value) in facts.headers {
        headers.entry(name).or_default().push(value);
    }
    let headers: Entries<'f> = headers
        .into_iter()
        .map(|(name, values)| {
            let value: Box<dyn Val + 'f> = match values.as_slice() {
                [only] => text(only),
                several => Box::new(owned(String::from_utf8_lossy(&several.join(&b","[..])).into_owned())),
            };
            (CelMapKey::String(CelString::from(name)), value)
        })
        .collect();
    set("headers", Box::new(CelMap::from(headers)));
    if facts.needs_text && facts.body.len() <= facts.limit() {
        set("body", text(facts.body));
    }
    CelMap::from(request)
}

fn text<'f>(bytes: &'f [u8]) -> Box<dyn Val + 'f> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Box::new(CelString::from(text)),
        Err(_) => Box::new(owned(String::from_utf8_lossy(bytes).into_owned())),
    }
}

fn owned(text: String) -> CelString<'static> {
    CelString::from(text)
}

/// No fewer than the values that a JSON text has.
pub(super) fn count_values(text: &[u8]) -> usize {
    1 + text.iter().filter(|byte| matches!(byte, b',' | b'[' | b'{')).count()
}

/// A JSON value as one of the language.
pub(super) fn value<'v>(json: Json) -> Box<dyn Val + 'v> {
    match json {
        Json::Null => Box::new(CelNull),
        Json::Bool(value) => Box::new(CelBool::from(value)),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Box::new(CelInt::from(number)),
            (None, Some(number)) => Box::new(CelUInt::from(number)),
            (None, None) => Box::new(CelDouble::from(number.as_f64().unwrap_or(f64::NAN))),
        },
        Json::String(value) => Box::new(owned(value)),
        Json::Array(values) => Box::new(CelList::from(values.into_iter().map(value).collect::<Vec<_>>())),
        Json::Object(members) => {
            let members = members.into_iter().map(|(name, member)| (CelMapKey::String(owned(name)), value(member)));
            Box::new(CelMap::from(members.collect::<Entries<'v>>()))
        }
    }
}

pub(super) fn is_long(json: &Json) -> bool {
    match json {
        Json::Array(values) => values.len() > MAX_ENTRIES || values.iter().any(is_long),
        Json::Object(members) => members.len() > MAX_ENTRIES || members.values().any(is_long),
        _ => false,
    }
}
