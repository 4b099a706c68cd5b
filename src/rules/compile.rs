//! From the text of an expression to one that can be evaluated for every request: parsed, checked, and bounded.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};

use cel_interpreter::common::ast::{CallExpr, EntryExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use cel_interpreter::common::types::{CelBool, CelString, STRING_TYPE};
use cel_interpreter::common::value::CowVal;
use cel_interpreter::{Env, ExecutionError};
use regex_lite::Regex;

use super::values;

/// Long enough for a map of some hundred models.
const MAX_SOURCE_BYTES: usize = 16 << 10;

/// Deeper than anybody can read.
const MAX_DEPTH: usize = 16;
/// Half of what a Wasm VM's stack of a megabyte was seen to take.
const MAX_TREE_DEPTH: usize = 200;
/// Some forty comparisons.
const MAX_OPERATORS: usize = 320;

/// What an expression may call besides operators.
const FUNCTIONS: [&str; 37] = [
    "bool",
    "bytes",
    "contains",
    "double",
    "duration",
    "dyn",
    "endsWith",
    "getDate",
    "getDayOfMonth",
    "getDayOfWeek",
    "getDayOfYear",
    "getFullYear",
    "getHours",
    "getMilliseconds",
    "getMinutes",
    "getMonth",
    "getSeconds",
    "hasValue",
    "int",
    "json",
    "matches",
    "none",
    "of",
    "ofNonZeroValue",
    "optional.none",
    "optional.of",
    "optional.ofNonZeroValue",
    "or",
    "orValue",
    "size",
    "startsWith",
    "string",
    "timestamp",
    "type",
    "uint",
    "value",
    "optional",
];

/// A parsed and checked expression.
#[derive(Clone, Debug)]
pub(super) struct Compiled {
    pub(super) expression: IdedExpr,
    pub(super) needs: Needs,
}

/// What expressions ask of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// `request.body`, as a text.
    pub(super) text: bool,
    /// Members of `body`.
    pub(super) members: BTreeSet<String>,
    /// All members of `body`.
    pub(super) all_members: bool,
    pub(super) macros: bool,
}

impl Needs {
    pub(super) fn merge(&mut self, other: &Needs) {
        self.text |= other.text;
        self.members.extend(other.members.iter().cloned());
        self.all_members |= other.all_members;
        self.macros |= other.macros;
    }
}

/// The environment in which all expressions are compiled and evaluated.
pub(super) fn environment() -> Env {
    let mut env = Env::stdlib();
    // Neither name is in the standard library, so that declaring it cannot fail.
    let _ = env.add_overload("json", "json_string", vec![STRING_TYPE], json);
    let _ = env.add_member_overload("matches", "string_matches_string", STRING_TYPE, vec![STRING_TYPE], matches);
    let _ = env.add_overload("matches", "matches_string_string", vec![STRING_TYPE, STRING_TYPE], matches);
    env
}

/// Parses and checks an expression; fails with what is wrong, and where.
pub(super) fn compile(env: &Env, source: &str) -> Result<Compiled, String> {
    if source.len() > MAX_SOURCE_BYTES {
        return Err(format!("{} bytes, but an expression has at most {MAX_SOURCE_BYTES}", source.len()));
    }
    bound_depth(source)?;
    let program = env.compile(source).map_err(|errors| {
        let texts = errors.errors.iter().map(|error| format!("{}:{}: {}", error.pos.0, error.pos.1, error.msg));
        texts.collect::<Vec<_>>().join("; ")
    })?;
    if depth(program.expression()) > MAX_TREE_DEPTH {
        return Err(format!("its tree is more than {MAX_TREE_DEPTH} deep: make several rules of it"));
    }
    let mut expression = program.expression().clone();
    let mut walk = Walk { source: program.source_info(), needs: Needs::default(), bound: Vec::new() };
    walk.visit(&mut expression)?;
    Ok(Compiled { expression, needs: walk.needs })
}

/// Refuses a text whose tree might be too deep for the stack of a Wasm VM: the parser and every later walk recurse.
fn bound_depth(source: &str) -> Result<(), String> {
    let (mut depth, mut operators, mut unary) = (0usize, 0usize, 0usize);
    let mut quote = None;
    let (mut is_escaped, mut is_raw, mut last) = (false, false, ' ');
    let (mut word, mut is_comment) = (String::new(), false);
    for char in source.chars() {
        if is_comment {
            is_comment = char != '\n';
            continue;
        }
        if let Some(open) = quote {
            match char {
                _ if is_escaped => is_escaped = false,
                '\\' => is_escaped = !is_raw,
                _ if char == open => quote = None,
                _ => {}
            }
            continue;
        }
        if char.is_alphanumeric() || char == '_' {
            word.push(char);
            continue;
        }
        // `in` is an operator in letters, and r'' a text in which a backslash is one.
        operators += usize::from(word == "in");
        is_raw = word.eq_ignore_ascii_case("r") || word.eq_ignore_ascii_case("br");
        word.clear();
        if char == '/' && last == '/' {
            is_comment = true;
        }
        last = char;
        unary = if matches!(char, '!' | '-' | '?') { unary + 1 } else { unary * usize::from(char.is_whitespace()) };
        match char {
            '"' | '\'' => quote = Some(char),
            '(' | '[' | '{' => depth += 1,
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        operators += usize::from(!char.is_alphanumeric() && !char.is_whitespace() && !"_,:\"'".contains(char));
        if depth > MAX_DEPTH || unary > MAX_DEPTH {
            return Err(format!("more than {MAX_DEPTH} brackets or signs inside one another"));
        }
        if operators > MAX_OPERATORS {
            return Err(format!("more than {MAX_OPERATORS} operators and brackets: make several rules of it"));
        }
    }
    Ok(())
}

/// How deep a tree is, found without recursion.
fn depth(root: &IdedExpr) -> usize {
    let mut deepest = 0;
    let mut open = vec![(root, 1)];
    while let Some((node, depth)) = open.pop() {
        deepest = deepest.max(depth);
        let mut push = |child| open.push((child, depth + 1));
        match &node.expr {
            Expr::Call(call) => {
                call.target.iter().for_each(|target| push(target));
                call.args.iter().for_each(push);
            }
            Expr::Comprehension(parts) => {
                let parts = [&parts.iter_range, &parts.accu_init, &parts.loop_cond, &parts.loop_step, &parts.result];
                parts.into_iter().for_each(push);
            }
            Expr::List(list) => list.elements.iter().for_each(push),
            Expr::Map(map) => map.entries.iter().for_each(|entry| match &entry.expr {
                EntryExpr::MapEntry(entry) => {
                    push(&entry.key);
                    push(&entry.value);
                }
                EntryExpr::StructField(field) => push(&field.value),
            }),
            Expr::Select(select) => push(&select.operand),
            Expr::Ident(_) | Expr::Literal(_) | Expr::Struct(_) | Expr::Unspecified => {}
        }
    }
    deepest
}

/// Goes over an expression, notes what it needs, and refuses what cannot work or has no bound.
struct Walk<'s> {
    source: &'s SourceInfo,
    needs: Needs,
    /// The variables of the macros that are open.
    bound: Vec<String>,
}

impl Walk<'_> {
    fn visit(&mut self, node: &mut IdedExpr) -> Result<(), String> {
        // `json(request.body)` is what `body` is, read once and only as far as it is asked for.
        if is_json_of_body(&node.expr) {
            node.expr = Expr::Ident("body".to_owned());
        }
        let id = node.id;
        match &mut node.expr {
            Expr::Ident(name) => self.ident(id, name),
            Expr::Select(select) => {
                let operand = &mut select.operand;
                if is_json_of_body(&operand.expr) {
                    operand.expr = Expr::Ident("body".to_owned());
                }
                match &operand.expr {
                    Expr::Ident(name) if name == "body" && !self.is_bound(name) => {
                        self.needs.members.insert(select.field.clone());
                        Ok(())
                    }
                    Expr::Ident(name) if name == "request" && !self.is_bound(name) => {
                        self.needs.text |= select.field == "body";
                        if !["method", "path", "query", "headers", "body"].contains(&select.field.as_str()) {
                            return Err(self.at(id, &format!("request has no {:?}", select.field)));
                        }
                        Ok(())
                    }
                    _ => self.visit(operand),
                }
            }
            Expr::Call(call) => self.call(id, call),
            Expr::List(list) => list.elements.iter_mut().try_for_each(|element| self.visit(element)),
            Expr::Map(map) => map.entries.iter_mut().try_for_each(|entry| self.entry(&mut entry.expr)),
            Expr::Struct(structure) => {
                Err(self.at(id, &format!("there is no message type {:?} here", structure.type_name)))
            }
            Expr::Comprehension(comprehension) => {
                if !self.bound.is_empty() {
                    return Err(self.at(id, "a macro inside another one: its cost has no bound"));
                }
                self.needs.macros = true;
                self.visit(&mut comprehension.iter_range)?;
                self.bound = vec![comprehension.iter_var.clone(), comprehension.accu_var.clone()];
                self.bound.extend(comprehension.iter_var2.clone());
                self.visit(&mut comprehension.accu_init)?;
                self.visit(&mut comprehension.loop_cond)?;
                self.visit(&mut comprehension.loop_step)?;
                self.visit(&mut comprehension.result)?;
                self.bound.clear();
                Ok(())
            }
            Expr::Literal(_) | Expr::Unspecified => Ok(()),
        }
    }

    fn ident(&mut self, id: u64, name: &str) -> Result<(), String> {
        match name {
            _ if self.is_bound(name) => {}
            "body" => self.needs.all_members = true,
            "request" => self.needs.text = true,
            "now" => {}
            // The types, as in `type(body.user) == string`.
            "bool" | "bytes" | "double" | "duration" | "int" | "list" | "map" | "null_type" | "string"
            | "timestamp" | "type" | "uint" | "optional_type" => {}
            _ => return Err(self.at(id, &format!("{name:?} is not known: there are request, body and now"))),
        }
        Ok(())
    }

    fn call(&mut self, id: u64, call: &mut CallExpr) -> Result<(), String> {
        let name = call.func_name.as_str();
        let is_operator = !name.starts_with(|first: char| first.is_ascii_alphabetic());
        if !is_operator && !FUNCTIONS.contains(&name) {
            return Err(self.at(id, &format!("there is no function {name:?}")));
        }
        // In a macro each of these would make something as long as the body for every step.
        let adds_to_result =
            matches!(call.args.first().map(|first| &first.expr), Some(Expr::Ident(first)) if self.is_bound(first));
        if !self.bound.is_empty() && (name == "json" || name == operators::ADD && !adds_to_result) {
            return Err(self.at(id, "json and + may not stand inside a macro: their cost has no bound"));
        }
        if name == "matches" {
            self.pattern(id, call.args.last())?;
        }
        // `optional.of(x)` is a function with a dot in its name, and `optional` no variable.
        let is_namespace = |target: &IdedExpr| matches!(&target.expr, Expr::Ident(name) if name == "optional");
        if let Some(target) = call.target.as_mut().filter(|target| !is_namespace(target)) {
            self.visit(target)?;
        }
        call.args.iter_mut().try_for_each(|argument| self.visit(argument))
    }

    /// A pattern is compiled here, once; one that a request brings along would be compiled for each.
    fn pattern(&self, id: u64, argument: Option<&IdedExpr>) -> Result<(), String> {
        let Some(Expr::Literal(LiteralValue::String(pattern))) = argument.map(|argument| &argument.expr) else {
            return Err(self.at(id, "the pattern of matches must be a literal"));
        };
        let regex = Regex::new(pattern.inner()).map_err(|error| self.at(id, &error.to_string()))?;
        PATTERNS.lock().unwrap_or_else(PoisonError::into_inner).insert(pattern.inner().to_owned(), regex);
        Ok(())
    }

    fn entry(&mut self, entry: &mut EntryExpr) -> Result<(), String> {
        match entry {
            EntryExpr::MapEntry(entry) => {
                self.visit(&mut entry.key)?;
                self.visit(&mut entry.value)
            }
            EntryExpr::StructField(field) => self.visit(&mut field.value),
        }
    }

    fn is_bound(&self, name: &str) -> bool {
        self.bound.iter().any(|bound| bound == name)
    }

    /// The message with its line and column, as the parser's are.
    fn at(&self, id: u64, message: &str) -> String {
        let offset = self.source.offset_for(id).map_or(0, |(start, _)| start as usize);
        let before: String = self.source.source.chars().take(offset).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        format!("{line}:{column}: {message}")
    }
}

fn is_json_of_body(expr: &Expr) -> bool {
    let Expr::Call(CallExpr { func_name, target: None, args }) = expr else { return false };
    let [IdedExpr { expr: Expr::Select(select), .. }] = args.as_slice() else { return false };
    let is_request = matches!(&select.operand.expr, Expr::Ident(name) if name == "request");
    func_name == "json" && is_request && select.field == "body" && !select.test
}

fn json<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = arguments.first().and_then(|text| text.downcast_ref::<CelString<'_>>());
    let text = text.ok_or_else(ExecutionError::missing_argument_or_target)?.inner();
    if text.len() > values::MAX_MEMBER_BYTES || values::count_values(text.as_bytes()) > values::MAX_VALUES {
        return Err(ExecutionError::function_error("json", "the text is too long"));
    }
    let value = serde_json::from_str(text).map_err(|error| ExecutionError::function_error("json", error))?;
    if values::is_long(&value) {
        return Err(ExecutionError::function_error("json", "a list or map is too long"));
    }
    Ok(CowVal::Owned(values::value(value)))
}

/// The patterns of all expressions, compiled: a function of the language has nothing but its arguments.
static PATTERNS: Mutex<BTreeMap<String, Regex>> = Mutex::new(BTreeMap::new());

fn matches<'b, 'v>(arguments: Vec<CowVal<'b, 'v>>) -> Result<CowVal<'b, 'v>, ExecutionError> {
    let text = |index: usize| arguments.get(index).and_then(|value| value.downcast_ref::<CelString<'_>>());
    let (Some(subject), Some(pattern)) = (text(0), text(1)) else {
        return Err(ExecutionError::missing_argument_or_target());
    };
    let patterns = PATTERNS.lock().unwrap_or_else(PoisonError::into_inner);
    match patterns.get(pattern.inner()) {
        Some(regex) => Ok(CowVal::owned(CelBool::from(regex.is_match(subject.inner())))),
        None => Err(ExecutionError::function_error("matches", "the pattern is not a literal")),
    }
}
