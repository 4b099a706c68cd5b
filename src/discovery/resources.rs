//! The Inference Extension's resources about models: InferenceModel, InferenceModelRewrite and InferenceObjective, of which the
//! last two are llm-d's now.
//!
//! They are few and change seldom, so each kind is listed again every two seconds. A list that is refused or fails leaves what the last
//! one said: a model that clients use must not go because a role is replaced. Neither must it go because another VM begins to poll
//! meanwhile, so what was published before holds for kinds of which that VM knows nothing. What they say is added to the plugin JSON's
//! `models`, `modelRewrites` and `objectives`; a resource that cannot be used is left out, and the log says why.

mod published;

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::backoff::{Backoff, is_due};
use super::failure::one_line;
use super::pages::Pages;
use super::{Answer, Failure, Outcome, Question};
use crate::config::{Addition, Additions, Config, extend, raw};
use crate::rng::SplitMix64;
use crate::time::Timestamp;

use published::{complete, encode};

pub use published::{decode, key};

/// Where the Inference Extension had them.
const EXTENSION: &str = "inference.networking.x-k8s.io/v1alpha2";
/// Where llm-d has two of them since. While somebody moves they may be in both; llm-d's count first.
const LLM_D: &str = "llm-d.ai/v1alpha2";
/// The lists that are asked for.
const KINDS: [(&str, &str); 5] = [
    (EXTENSION, "inferencemodels"),
    (EXTENSION, "inferencemodelrewrites"),
    (EXTENSION, "inferenceobjectives"),
    (LLM_D, "inferencemodelrewrites"),
    (LLM_D, "inferenceobjectives"),
];
const PERIOD: Duration = Duration::from_secs(2);
const TIMEOUT: Duration = Duration::from_secs(10);
/// More than anybody has; of a longer list the API gives so many.
const LIMIT: usize = 1000;
/// How long a kind must be refused, or not be installed, before that counts: a role or a definition that is replaced is away for a
/// moment, and names must not go with it.
const PATIENCE: Duration = Duration::from_secs(10);
/// A log with thousands of lines helps nobody.
const MAX_NEWS: usize = 100;

/// Lists the resources of a namespace, again and again.
#[derive(Debug)]
pub(super) struct Resources {
    namespace: String,
    document: Box<raw::Config>,
    kinds: [Kind; KINDS.len()],
    rng: SplitMix64,
    published: Option<Vec<u8>>,
    /// What was published when this VM began to poll.
    before: Additions,
    publication: Option<Vec<u8>>,
    /// What of the published cannot be used.
    unusable: Vec<String>,
    /// Everything that is left out, to say of each but once why.
    refused: BTreeSet<String>,
    news: VecDeque<String>,
    generation: u64,
}

/// One of the lists that are asked for.
#[derive(Debug, Default)]
struct Kind {
    due_at: Timestamp,
    backoff: Backoff,
    pages: Pages,
    /// Of the list that is under way.
    items: Vec<serde_json::Value>,
    /// What was last known.
    list: Option<List>,
    /// Whether the list is empty because none was ever read, and not because there is nothing.
    is_unknown: bool,
    /// Since when the answer is 403 or 404, and which of them.
    refused: Option<(u16, Timestamp)>,
}

/// What the resources of one kind say.
#[derive(Debug, Default)]
struct List {
    additions: Additions,
    unreadable: Vec<String>,
}

impl Resources {
    pub(super) fn new(namespace: &str, config: &Config, owner: u64) -> Resources {
        Resources {
            namespace: namespace.to_owned(),
            document: Box::new(config.document.clone()),
            kinds: Default::default(),
            rng: SplitMix64::new(owner),
            published: None,
            before: Additions::default(),
            publication: None,
            unusable: Vec::new(),
            refused: BTreeSet::new(),
            news: VecDeque::new(),
            generation: 0,
        }
    }

    pub(super) fn restart(&mut self) {
        self.kinds = Default::default();
        // Others may have stored something else since.
        self.published = None;
        self.before = Additions::default();
    }

    /// The shared-data key of what is published.
    pub(super) fn key(&self) -> String {
        key(&self.namespace)
    }

    /// Takes in what another VM has published, when this one begins to poll.
    pub(super) fn handle_published(&mut self, blob: &[u8]) {
        self.before = decode(blob).unwrap_or_default();
    }

    pub(super) fn poll_question(&mut self, open: &[u64], now: Timestamp) -> Option<Question> {
        let is_ready = |kind: &Kind| is_due(kind.due_at, now, PERIOD * 2) && kind.backoff.is_over(now);
        let mut kinds = (0..).zip(&KINDS).zip(&self.kinds);
        let ((kind, (group, plural)), state) =
            kinds.find(|((number, _), kind)| !open.contains(number) && is_ready(kind))?;
        let path = format!("/apis/{group}/namespaces/{}/{plural}?{}", self.namespace, state.pages.query());
        Some(Question { kind, path, accept: "application/json", timeout: TIMEOUT })
    }

    /// Takes a page of a list in. What cannot be read or reached, and what is refused, leaves what was known.
    pub(super) fn handle_answer(&mut self, kind: u64, answer: Answer<'_>, now: Timestamp) -> Result<Outcome, Failure> {
        let knows_any = self.kinds.iter().any(|kind| kind.list.is_some());
        let state = usize::try_from(kind).ok().and_then(|at| self.kinds.get_mut(at));
        let Some(state) = state else { return Ok(Outcome::Stale) };
        let outcome = match answer.body() {
            Ok(body) => state.handle_page(kind, body, now),
            Err(failure) => state.handle_failure(failure, answer, knows_any, now),
        };
        match &outcome {
            Ok(_) => state.backoff.handle_success(),
            Err(_) => {
                state.due_at = now;
                state.backoff.handle_failure(answer.retry_after(), &mut self.rng, now);
            }
        }
        self.settle();
        outcome
    }

    /// What to publish since the last call, and its key.
    pub(super) fn poll_publication(&mut self) -> Option<(String, Vec<u8>)> {
        self.publication.take().map(|blob| (self.key(), blob))
    }

    /// Why a resource is left out, once for each.
    pub(super) fn poll_refused(&mut self) -> Option<String> {
        self.news.pop_front()
    }

    /// Puts the lists together once each was read, and says what cannot be used of them.
    fn settle(&mut self) {
        let [Some(models), Some(old_rewrites), Some(old_objectives), Some(rewrites), Some(objectives)] =
            self.kinds.each_ref().map(|kind| kind.list.as_ref())
        else {
            return;
        };
        let mut all = Additions {
            models: models.additions.models.clone(),
            model_rewrites: [rewrites, old_rewrites].map(|list| list.additions.model_rewrites.as_slice()).concat(),
            objectives: [objectives, old_objectives].map(|list| list.additions.objectives.as_slice()).concat(),
        };
        let [no_models, no_old_rewrites, no_old_objectives, no_rewrites, no_objectives] =
            self.kinds.each_ref().map(|kind| kind.is_unknown);
        complete(&mut all.models, &self.before.models, no_models);
        complete(&mut all.model_rewrites, &self.before.model_rewrites, no_rewrites || no_old_rewrites);
        complete(&mut all.objectives, &self.before.objectives, no_objectives || no_old_objectives);
        let json = serde_json::to_vec(&all).unwrap_or_default();
        if self.published.as_ref() != Some(&json) {
            self.generation += 1;
            self.publication = Some(encode(self.generation, &json));
            self.published = Some(json);
            self.unusable = extend(&self.document, &all).map(|extended| extended.refused).unwrap_or_default();
        }
        let lists = self.kinds.iter().filter_map(|kind| kind.list.as_ref());
        let unreadable = lists.flat_map(|list| list.unreadable.iter());
        let refused: BTreeSet<String> = unreadable.chain(&self.unusable).cloned().collect();
        let mut news: Vec<String> = refused.difference(&self.refused).cloned().collect();
        if news.len() > MAX_NEWS {
            let more = news.len() - MAX_NEWS;
            news.truncate(MAX_NEWS);
            news.push(format!("{more} more resources that cannot be used"));
        }
        self.news.extend(news);
        self.refused = refused;
    }
}

impl Kind {
    fn handle_page(&mut self, kind: u64, body: &[u8], now: Timestamp) -> Result<Outcome, Failure> {
        let page: Items = serde_json::from_slice(body).map_err(|error| Failure::unreadable(&error))?;
        self.refused = None;
        let items = page.items.unwrap_or_default();
        let has_more = self.pages.handle_page(items.len(), body.len(), page.metadata.rest);
        self.items.extend(items);
        if has_more && self.items.len() < LIMIT {
            self.due_at = now;
            return Ok(Outcome::Unchanged);
        }
        self.pages.restart();
        self.due_at = now.after(PERIOD);
        let mut items = std::mem::take(&mut self.items);
        if has_more {
            items.truncate(LIMIT);
        }
        self.is_unknown = false;
        self.list = Some(match kind {
            0 => list(items, has_more, "InferenceModel", model, |additions| &mut additions.models),
            1 | 3 => list(items, has_more, "InferenceModelRewrite", rewrite, |additions| &mut additions.model_rewrites),
            _ => list(items, has_more, "InferenceObjective", objective, |additions| &mut additions.objectives),
        });
        Ok(Outcome::Unchanged)
    }

    fn handle_failure(
        &mut self,
        failure: Failure,
        answer: Answer<'_>,
        knows_any: bool,
        now: Timestamp,
    ) -> Result<Outcome, Failure> {
        let is_shorter = matches!(answer, Answer::TooLarge | Answer::Broken) && self.pages.handle_too_long();
        if is_shorter && answer == Answer::TooLarge {
            self.due_at = now;
            return Ok(Outcome::Stale);
        }
        self.pages.restart();
        self.items.clear();
        let status = match failure {
            Failure::Status(status @ (403 | 404), _) => status,
            failure => {
                self.refused = None;
                return Err(failure);
            }
        };
        let since = match self.refused {
            Some((before, since)) if before == status => since,
            _ => now,
        };
        self.refused = Some((status, since));
        let has_lasted = now.is_due(since, PATIENCE);
        if status == 404 {
            // The kind is not installed: there is none of it.
            if self.list.is_none() || has_lasted {
                self.list = Some(List::default());
                self.is_unknown = !has_lasted;
            }
            self.due_at = now.after(PERIOD);
            return Ok(Outcome::Unchanged);
        }
        // A role that lacks one kind, as one from before llm-d's group was asked for does, is not a reason to do without the others.
        if self.list.is_none() && knows_any && has_lasted {
            self.list = Some(List::default());
            self.is_unknown = true;
        }
        Err(failure)
    }
}

/// A list's items, the oldest first: of two that say the same the older one counts.
fn list<T: DeserializeOwned, R>(
    found: Vec<serde_json::Value>,
    has_more: bool,
    kind: &str,
    says: fn(Item<T>) -> R,
    of: fn(&mut Additions) -> &mut Vec<Addition<R>>,
) -> List {
    let mut list = List::default();
    if has_more {
        list.unreadable.push(format!("{kind}: only the first {LIMIT} are read, and there are more"));
    }
    let mut items: Vec<Item<T>> = Vec::new();
    for item in found {
        let name = item.pointer("/metadata/name").and_then(|name| name.as_str()).unwrap_or_default().to_owned();
        // One that cannot be read is not a reason to forget the others.
        match serde_path_to_error::deserialize(&item) {
            Ok(item) => items.push(item),
            Err(error) => list.unreadable.push(format!("{kind} {}: {}", one_line(&name), one_line(&error.to_string()))),
        }
    }
    items.sort_by(|a, b| (&a.metadata.created, &a.metadata.name).cmp(&(&b.metadata.created, &b.metadata.name)));
    let addition = |item: Item<T>| Addition { source: format!("{kind} {}", item.metadata.name), says: says(item) };
    *of(&mut list.additions) = items.into_iter().map(addition).collect();
    list
}

fn model(item: Item<InferenceModel>) -> raw::Model {
    raw::Model {
        model_name: Some(item.spec.model_name),
        pool: Some(item.spec.pool_ref.name),
        criticality: item.spec.criticality,
        target_models: item.spec.target_models.map(|targets| targets.into_iter().map(Some).collect()),
        ..raw::Model::default()
    }
}

fn rewrite(item: Item<InferenceModelRewrite>) -> raw::ModelRewrite {
    let rules = item.spec.rules.into_iter().map(Some).collect();
    raw::ModelRewrite { pool: Some(item.spec.pool_ref.name), rules: Some(rules) }
}

fn objective(item: Item<InferenceObjective>) -> raw::Objective {
    let pool = Some(item.spec.pool_ref.name);
    raw::Objective { name: Some(item.metadata.name), pool, priority: item.spec.priority }
}

#[derive(Deserialize)]
struct Items {
    #[serde(default)]
    metadata: ListMetadata,
    #[serde(default)]
    items: Option<Vec<serde_json::Value>>,
}

#[derive(Default, Deserialize)]
struct ListMetadata {
    /// Where the list goes on.
    #[serde(default, rename = "continue")]
    rest: String,
}

#[derive(Deserialize)]
struct Item<T> {
    metadata: Metadata,
    spec: T,
}

#[derive(Deserialize)]
struct Metadata {
    name: String,
    /// RFC 3339 in UTC, which sorts as text.
    #[serde(default, rename = "creationTimestamp")]
    created: String,
}

#[derive(Deserialize)]
struct PoolRef {
    name: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InferenceModel {
    model_name: String,
    criticality: Option<raw::Criticality>,
    target_models: Option<Vec<raw::TargetModel>>,
    pool_ref: PoolRef,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InferenceModelRewrite {
    pool_ref: PoolRef,
    #[serde(default)]
    rules: Vec<raw::RewriteRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InferenceObjective {
    priority: Option<i64>,
    pool_ref: PoolRef,
}

#[cfg(test)]
mod tests;
