//! Compiles the rules and checks what they set.

use super::Checker;
use crate::config::raw;
use crate::headers;
use crate::rules::{self, Compiler, MAX_RULES, Outcome, Rule, Rules};

/// What a rule must not set: what frames a message, names its host, or steers where Envoy sends it.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    headers::DESTINATION,
];

impl Checker<'_> {
    /// `has_model` knows the names that clients may ask for.
    pub(super) fn rules(&mut self, raw: Option<Vec<Option<raw::Rule>>>, has_model: impl Fn(&str) -> bool) -> Rules {
        let raw = self.elements("rules", raw);
        if raw.is_empty() {
            return Rules::default();
        }
        if raw.len() > MAX_RULES {
            self.error("rules", format!("{} rules, but at most {MAX_RULES} are allowed", raw.len()));
        }
        let mut compiler = Compiler::default();
        let rules = raw.into_iter().map(|(path, raw)| self.rule(&path, raw, &mut compiler, &has_model)).collect();
        compiler.finish(rules)
    }

    fn rule(&mut self, path: &str, raw: raw::Rule, compiler: &mut Compiler, has_model: impl Fn(&str) -> bool) -> Rule {
        let mut rule = Rule::default();
        if let Some(source) = raw.when {
            match compiler.condition(&source) {
                Ok(condition) => rule.when = Some(condition),
                Err(message) => self.error(&format!("{path}.when"), message),
            }
        }
        if raw.model.is_none() && raw.pool.is_none() && raw.priority.is_none() && raw.headers.is_empty() {
            self.error(path, "sets nothing: give a model, a pool, a priority or headers");
        }
        rule.priority = self.priority(&format!("{path}.priority"), raw.priority);
        let model_path = format!("{path}.model");
        rule.model = raw.model.and_then(|model| self.outcome(&model_path, model, compiler));
        if let Some(Outcome::Fixed(model)) = &rule.model
            && !has_model(model)
        {
            self.error(&model_path, format!("no pool serves {model:?}, and no model has that name"));
        }
        let pool_path = format!("{path}.pool");
        rule.pool = raw.pool.and_then(|pool| self.outcome(&pool_path, pool, compiler)).and_then(|pool| match pool {
            Outcome::Computed(expression) => Some(Outcome::Computed(expression)),
            Outcome::Fixed(name) => {
                let found = self.pool_named(&name);
                if found.is_none() {
                    self.error(&pool_path, format!("there is no pool {name:?}"));
                }
                found.map(Outcome::Fixed)
            }
        });
        for (name, value) in raw.headers {
            let path = format!("{path}.headers.{name}");
            let Some(name) = self.header_name(&path, &name) else { continue };
            if RESERVED.contains(&name.as_str()) {
                self.error(&path, "is not a rule's to set");
            }
            let Some(value) = self.outcome(&path, value, compiler) else { continue };
            if let Outcome::Fixed(value) = &value
                && let Err(message) = rules::check_header_value(value)
            {
                self.error(&path, message);
            }
            rule.headers.push((name, value));
        }
        rule
    }

    fn outcome(&mut self, path: &str, raw: raw::Outcome, compiler: &mut Compiler) -> Option<Outcome<String>> {
        let expression = match raw {
            raw::Outcome::Text(text) => return Some(Outcome::Fixed(text)),
            raw::Outcome::Expression(expression) => expression,
        };
        let path = format!("{path}.cel");
        let Some(source) = expression.cel else {
            self.error(&path, "is required");
            return None;
        };
        match compiler.expression(&source) {
            Ok(expression) => Some(Outcome::Computed(Box::new(expression))),
            Err(message) => {
                self.error(&path, message);
                None
            }
        }
    }
}
