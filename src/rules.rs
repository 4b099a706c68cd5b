//! Rules in the Common Expression Language: which model, pool, priority or headers a request gets by what it looks like.
//!
//! Expressions are compiled once. Evaluating one costs a microsecond or two, so what is false at a glance isn't
//! evaluated, and of the body only those members are read that some expression names. Time and memory are bounded by
//! the expressions' length and by limits on what they see of a body.

mod compile;
mod guard;
mod values;

use std::fmt;
use std::sync::Arc;

use cel_interpreter::common::ast::IdedExpr;
use cel_interpreter::common::types::{CelBool, CelString};
use cel_interpreter::{Context, Env, Value};

use crate::config::PoolId;
use crate::scan::{Member, Wanted};
use crate::shown;
use crate::target;
use crate::time::Timestamp;

use compile::Needs;
use guard::Guard;
use values::Variables;

/// More rules than anybody has written for one gateway.
pub const MAX_RULES: usize = 256;
/// The bound on a header's value: Envoy takes 60 KiB of headers.
const MAX_HEADER_VALUE: usize = 8 << 10;

/// All rules of a configuration, in their order.
#[derive(Default)]
pub struct Rules {
    rules: Vec<Rule>,
    env: Option<Arc<Env>>,
    needs: Needs,
    members: Vec<String>,
}

/// A rule as it was checked.
#[derive(Debug, Default)]
pub struct Rule {
    /// Which requests it is for; all without one.
    pub when: Option<Condition>,
    /// The model to look up.
    pub model: Option<Outcome<String>>,
    /// The pool to go to.
    pub pool: Option<Outcome<PoolId>>,
    /// The priority.
    pub priority: Option<i32>,
    /// Headers to set: names in lower case, and their values.
    pub headers: Vec<(String, Outcome<String>)>,
}

/// A compiled condition.
#[derive(Debug)]
pub struct Condition {
    guards: Vec<Guard>,
    expression: IdedExpr,
}

/// What a rule sets.
#[derive(Debug)]
pub enum Outcome<T> {
    /// It is known.
    Fixed(T),
    /// It is an expression's value.
    Computed(Box<IdedExpr>),
}

/// What is known of a request.
#[derive(Clone, Copy, Debug)]
pub struct Facts<'f> {
    /// The method.
    pub method: &'f [u8],
    /// The path without its query, its percent-encoding taken off where an exchange asks.
    pub path: &'f [u8],
    /// The query without its question mark.
    pub query: &'f [u8],
    /// The headers without pseudo-headers, names in lower case.
    pub headers: &'f [(String, Vec<u8>)],
    /// The body.
    pub body: &'f [u8],
    /// The members of the body that [`Rules::wanted`] asks for.
    pub members: &'f [Member],
    /// The time.
    pub now: Timestamp,
    /// Whether any rule looks at the body as a text.
    needs_text: bool,
    has_macros: bool,
}

/// What the first rule that is for a request says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Choice {
    /// The rule's position.
    pub rule: usize,
    /// The model to look up.
    pub model: Option<String>,
    /// The pool to go to.
    pub pool: Option<PoolId>,
    /// The priority.
    pub priority: Option<i32>,
    /// Headers to set.
    pub headers: Vec<(String, String)>,
}

/// A rule that could not be evaluated for a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The rule's position.
    pub rule: usize,
    /// Why.
    pub message: String,
}

/// Compiles expressions one after the other, and then makes the rules of them.
pub struct Compiler {
    env: Env,
    needs: Needs,
}

impl Default for Compiler {
    fn default() -> Compiler {
        Compiler { env: compile::environment(), needs: Needs::default() }
    }
}

impl Compiler {
    /// Compiles a condition; fails with what is wrong, and at which line and column.
    pub fn condition(&mut self, source: &str) -> Result<Condition, String> {
        let expression = self.expression(source)?;
        Ok(Condition { guards: Guard::of(&expression), expression })
    }

    /// Compiles an expression whose value is a string.
    pub fn expression(&mut self, source: &str) -> Result<IdedExpr, String> {
        let compiled = compile::compile(&self.env, source)?;
        self.needs.merge(&compiled.needs);
        Ok(compiled.expression)
    }

    /// The rules, whose expressions were all compiled here.
    pub fn finish(self, rules: Vec<Rule>) -> Rules {
        let members = self.needs.members.iter().cloned().collect();
        Rules { rules, env: Some(Arc::new(self.env)), needs: self.needs, members }
    }
}

impl<'f> Facts<'f> {
    /// What is known of a request to `target`, its path with the query.
    pub fn new(method: &'f [u8], target: &'f [u8], headers: &'f [(String, Vec<u8>)], now: Timestamp) -> Facts<'f> {
        let (path, query) = target::split(target);
        Facts { method, path, query, headers, body: b"", members: &[], now, needs_text: false, has_macros: false }
    }

    /// The same with a body.
    #[must_use]
    pub fn with_body(self, body: &'f [u8], members: &'f [Member]) -> Facts<'f> {
        Facts { body, members, ..self }
    }
}

impl Rules {
    /// True when there is none.
    pub fn is_empty(&self) -> bool {
        self.rules.is_empty()
    }

    /// The rules.
    pub fn iter(&self) -> std::slice::Iter<'_, Rule> {
        self.rules.iter()
    }

    /// The members of the body that the rules look at.
    pub fn wanted(&self) -> Wanted<'_> {
        if self.needs.all_members { Wanted::All } else { Wanted::Named(&self.members) }
    }

    /// What the first rule says that is for the request. `pools` finds a pool by its name, `has_model` knows the names
    /// that clients may ask for. A rule that fails is noted in `failures` and passed over.
    pub fn decide(
        &self,
        facts: Facts<'_>,
        pools: impl Fn(&str) -> Option<PoolId>,
        has_model: impl Fn(&str) -> bool,
        failures: &mut Vec<Failure>,
    ) -> Option<Choice> {
        let facts = Facts { needs_text: self.needs.text, has_macros: self.needs.macros, ..facts };
        let variables = Variables::new(&facts);
        let mut evaluator = None;
        for (index, rule) in self.rules.iter().enumerate() {
            if rule.when.iter().flat_map(|when| &when.guards).any(|guard| guard.is_false(&facts)) {
                continue;
            }
            let evaluator = evaluator.get_or_insert_with(|| Evaluator::new(self.env.as_ref(), &variables));
            match rule.choice(evaluator, &pools, &has_model) {
                Ok(None) => {}
                Ok(Some(choice)) => return Some(Choice { rule: index, ..choice }),
                // It may repeat what a client has sent.
                Err(message) => failures.push(Failure { rule: index, message: shown::line(message) }),
            }
        }
        None
    }
}

impl Rule {
    fn choice(
        &self,
        evaluator: &Evaluator<'_>,
        pools: impl Fn(&str) -> Option<PoolId>,
        has_model: impl Fn(&str) -> bool,
    ) -> Result<Option<Choice>, String> {
        if let Some(when) = &self.when
            && !evaluator.truth(&when.expression)?
        {
            return Ok(None);
        }
        let model = match &self.model {
            None => None,
            Some(Outcome::Fixed(model)) => Some(model.clone()),
            Some(Outcome::Computed(expression)) => {
                let model = evaluator.text(expression)?;
                if !has_model(&model) {
                    return Err(format!("no pool serves the model \"{}\"", shown::token(&model)));
                }
                Some(model)
            }
        };
        let pool = match &self.pool {
            None => None,
            Some(Outcome::Fixed(pool)) => Some(*pool),
            Some(Outcome::Computed(expression)) => {
                let name = evaluator.text(expression)?;
                Some(pools(&name).ok_or_else(|| format!("there is no pool \"{}\"", shown::token(&name)))?)
            }
        };
        let mut headers = Vec::new();
        for (name, outcome) in &self.headers {
            let value = match outcome {
                Outcome::Fixed(value) => value.clone(),
                Outcome::Computed(expression) => evaluator.text(expression)?,
            };
            check_header_value(&value)?;
            headers.push((name.clone(), value));
        }
        Ok(Some(Choice { rule: 0, model, pool, priority: self.priority, headers }))
    }
}

/// Whether a text can be a header's value.
pub fn check_header_value(value: &str) -> Result<(), String> {
    if value.len() > MAX_HEADER_VALUE {
        return Err(format!("{} bytes, but a header's value has at most {MAX_HEADER_VALUE}", value.len()));
    }
    match value.chars().find(|char| char.is_control()) {
        Some(char) => Err(format!("{char:?} cannot stand in a header's value")),
        None => Ok(()),
    }
}

/// Evaluates expressions for one request.
struct Evaluator<'v> {
    context: Context<'v, 'v>,
}

impl<'v> Evaluator<'v> {
    fn new(env: Option<&Arc<Env>>, variables: &'v Variables<'_>) -> Evaluator<'v> {
        let mut context = env.map_or_else(Context::empty, |env| Context::with_env(Arc::clone(env)));
        context.set_variable_resolver(variables);
        Evaluator { context }
    }

    fn truth(&self, expression: &IdedExpr) -> Result<bool, String> {
        let value = Value::resolve_val(expression, &self.context).map_err(short)?;
        let truth = value.downcast_ref::<CelBool>().map(|truth| *truth.inner());
        truth.ok_or_else(|| format!("the condition is a {}, and no bool", value.get_type().name()))
    }

    fn text(&self, expression: &IdedExpr) -> Result<String, String> {
        let value = Value::resolve_val(expression, &self.context).map_err(short)?;
        let text = value.downcast_ref::<CelString<'_>>().map(|text| text.inner().to_owned());
        text.ok_or_else(|| format!("the value is a {}, and no string", value.get_type().name()))
    }
}

/// An error's message, without the values that some would repeat: a prompt doesn't belong into a log.
fn short(error: cel_interpreter::ExecutionError) -> String {
    use cel_interpreter::ExecutionError as Error;
    match error {
        Error::NoSuchKey(_)
        | Error::NoSuchOverload(_)
        | Error::UndeclaredReference(_)
        | Error::FunctionError { .. } => error.to_string(),
        Error::IndexOutOfBounds(_) => "index out of bounds".to_owned(),
        Error::DivisionByZero(_) | Error::RemainderByZero(_) => "division by zero".to_owned(),
        Error::Overflow(..) => "overflow".to_owned(),
        Error::InvalidArgumentCount { .. } | Error::MissingArgumentOrTarget => "wrong number of arguments".to_owned(),
        _ => "values of types that do not go together".to_owned(),
    }
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rules").field("rules", &self.rules).field("needs", &self.needs).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
