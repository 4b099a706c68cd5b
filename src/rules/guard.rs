//! What can be said of a condition without evaluating it.
//!
//! Most conditions are conjunctions in which a header or a member of the body is compared with a text. One such part
//! that is false makes the whole false, whatever the others are: so the language has it, errors included. That is seen
//! in a comparison of bytes, where an evaluation takes a microsecond.

use cel_interpreter::common::ast::{CallExpr, Expr, IdedExpr, LiteralValue, operators};

use super::Facts;

/// A part of a conjunction that is often decided at a glance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Guard {
    what: What,
    /// It must be one of these.
    values: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum What {
    Method,
    Path,
    Header(String),
    Member(String),
}

impl Guard {
    /// The guards of an expression that was checked.
    pub(super) fn of(expression: &IdedExpr) -> Vec<Guard> {
        match &expression.expr {
            Expr::Call(CallExpr { func_name, args, .. }) if func_name == operators::LOGICAL_AND => {
                args.iter().flat_map(Guard::of).collect()
            }
            Expr::Call(CallExpr { func_name, args, .. }) => match (func_name.as_str(), args.as_slice()) {
                (operators::EQUALS, [left, right]) => {
                    let sides = [(left, right), (right, left)];
                    let guard = |(path, value)| Some(Guard { what: what(path)?, values: vec![literal(value)?] });
                    sides.into_iter().find_map(guard).into_iter().collect()
                }
                (operators::IN, [path, IdedExpr { expr: Expr::List(list), .. }]) => {
                    let values: Option<Vec<String>> = list.elements.iter().map(literal).collect();
                    let guard = what(path).zip(values).map(|(what, values)| Guard { what, values });
                    guard.into_iter().collect()
                }
                _ => Vec::new(),
            },
            _ => Vec::new(),
        }
    }

    /// Whether the part is false for certain.
    pub(super) fn is_false(&self, facts: &Facts<'_>) -> bool {
        match &self.what {
            What::Method => self.excludes(facts.method),
            What::Path => self.excludes(facts.path),
            What::Header(name) => {
                let mut values = facts.headers.iter().filter(|(header, _)| header == name);
                match (values.next(), values.next()) {
                    (Some((_, value)), None) => self.excludes(value),
                    // None is an error and no falsehood, and of several it depends on their joint text.
                    _ => false,
                }
            }
            What::Member(name) => {
                let member = facts.members.iter().rev().find(|member| member.key == *name);
                let text = member.and_then(|member| facts.body.get(member.span.clone()));
                // A text without escapes is what stands between its quotes.
                let plain = text.and_then(|text| text.strip_prefix(b"\"")?.strip_suffix(b"\""));
                // Six bytes of escapes are one of text at least: whoever is longer is another text, and is not looked at.
                let longest = self.values.iter().map(String::len).max().unwrap_or(0);
                if plain.is_some_and(|text| text.len() > longest * 6) && member.is_some_and(|member| member.is_json) {
                    return true;
                }
                let plain = plain.filter(|text| !text.contains(&b'\\'));
                member.is_some_and(|member| member.is_json) && plain.is_some_and(|text| self.excludes(text))
            }
        }
    }

    fn excludes(&self, text: &[u8]) -> bool {
        std::str::from_utf8(text).is_ok() && !self.values.iter().any(|value| value.as_bytes() == text)
    }
}

fn what(path: &IdedExpr) -> Option<What> {
    let select = |node: &IdedExpr| match &node.expr {
        Expr::Select(select) if !select.test => match &select.operand.expr {
            Expr::Ident(name) => Some((name.clone(), select.field.clone())),
            _ => None,
        },
        _ => None,
    };
    match &path.expr {
        Expr::Call(CallExpr { func_name, args, .. }) if func_name == operators::INDEX => {
            let [map, key] = args.as_slice() else { return None };
            let is_headers = select(map).is_some_and(|(root, field)| root == "request" && field == "headers");
            literal(key).filter(|_| is_headers).map(What::Header)
        }
        Expr::Select(outer) if !outer.test => match select(path) {
            Some((root, field)) => match (root.as_str(), field.as_str()) {
                ("request", "method") => Some(What::Method),
                ("request", "path") => Some(What::Path),
                ("body", _) => Some(What::Member(field)),
                _ => None,
            },
            None => {
                let (root, field) = select(&outer.operand)?;
                (root == "request" && field == "headers").then(|| What::Header(outer.field.clone()))
            }
        },
        _ => None,
    }
}

fn literal(node: &IdedExpr) -> Option<String> {
    match &node.expr {
        Expr::Literal(LiteralValue::String(text)) => Some(text.inner().to_owned()),
        _ => None,
    }
}
