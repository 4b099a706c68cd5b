//! Checks how a pool chooses, and builds its profile.

use super::Checker;
use crate::config::raw;
use crate::engine::Dialect;
use crate::scheduling::filter::{self, Filter, LabelSelector, Limits, Utilization};
use crate::scheduling::labels::{self, Labels, MAX_SELECTORS};
use crate::scheduling::picker::{self, MaxScore};
use crate::scheduling::scorer::{self, ActiveRequest, ContextLengthAware, LoadAware, PrefixCache, Scorer, TokenLoad};
use crate::scheduling::{Profile, WeightedScorer};

/// The parameters of each kind of plugin that has any; a plugin that isn't here has none.
const PARAMETERS: [(&str, &[&str]); 6] = [
    ("load-aware-scorer", &["threshold"]),
    ("prefix-cache-scorer", &["matchLengthWeight", "matchLengthScaleTokens"]),
    ("active-request-scorer", &["idleThreshold", "maxBusyScore"]),
    ("token-load-scorer", &["queueThresholdTokens"]),
    ("label-selector-filter", &["matchLabels"]),
    ("utilization-filter", &["maxActive", "maxRunning", "maxWaiting", "maxKvCacheUsage", "fallbackOnEmpty"]),
];

impl Checker<'_> {
    /// `dialect` is what the pool's engine says, when that is known.
    pub(super) fn profile(
        &mut self,
        path: &str,
        raw: raw::Scheduling,
        labels: &[Labels],
        dialect: Option<&Dialect>,
    ) -> Profile {
        let mut profile = match raw.profile.unwrap_or_default() {
            raw::ProfileName::Default => Profile::own(),
            raw::ProfileName::Epp => Profile::epp(),
        };
        if let Some(scorers) = raw.scorers {
            if raw.profile.is_some() {
                self.error(&format!("{path}.profile"), "has scorers of its own: leave it or scorers out");
            }
            profile.scorers = self.scorers(&format!("{path}.scorers"), scorers, labels, dialect);
            profile.picker = Box::new(MaxScore);
            (profile.may_sample, profile.heeds_slo) = (false, false);
        }
        for (path, filter) in self.elements(&format!("{path}.filters"), raw.filters) {
            profile.filters.extend(self.filter(&path, filter, labels, &mut profile.selectors));
            profile.may_sample = false;
        }
        let picker = raw.picker.unwrap_or_default();
        let at_most = self.integer(&format!("{path}.picker.maxNumOfEndpoints"), picker.max_num_of_endpoints, 3, 1..=3);
        profile.max_picks = usize::try_from(at_most).unwrap_or(1);
        if let Some(name) = picker.type_ {
            let known = picker::all();
            let names: Vec<&str> = known.iter().map(|picker| picker.name()).collect();
            self.known(&format!("{path}.picker.type"), "picker", &name, &names);
            profile.picker = known.into_iter().find(|picker| picker.name() == name).unwrap_or(Box::new(MaxScore));
        }
        profile
    }

    /// Refuses what tells endpoints apart by labels, in a pool whose endpoints have none that are known.
    pub(super) fn no_labels(&mut self, path: &str, raw: Option<&raw::Scheduling>) {
        let Some(raw) = raw else { return };
        let filters = raw.filters.iter().flatten().flatten().map(|filter| ("filters", filter.type_.as_deref()));
        let scorers = raw.scorers.iter().flatten().flatten().map(|scorer| ("scorers", scorer.type_.as_deref()));
        for (list, name) in filters.chain(scorers) {
            if let Some(name @ ("label-selector-filter" | scorer::CONTEXT_LENGTH_AWARE)) = name {
                let message = format!(
                    "{name} needs labels, which Envoy does not tell: write the endpoints down, or discover pods"
                );
                self.error(&format!("{path}.{list}"), message);
            }
        }
    }

    fn scorers(
        &mut self,
        path: &str,
        raw: Vec<Option<raw::Scorer>>,
        labels: &[Labels],
        dialect: Option<&Dialect>,
    ) -> Vec<WeightedScorer> {
        if raw.is_empty() {
            self.error(path, "names no scorer: leave it out for the default");
        }
        let mut scorers = Vec::new();
        for (path, scorer) in self.elements(path, Some(raw)) {
            let weight = scorer.weight.unwrap_or(1.0);
            if !(0.0..=1000.0).contains(&weight) {
                self.error(&format!("{path}.weight"), format!("{weight} is not between 0 and 1000"));
            }
            let Some(name) = scorer.type_ else {
                self.error(&format!("{path}.type"), "is required");
                continue;
            };
            let scorer = self.scorer(&path, &name, &scorer.parameters.unwrap_or_default(), labels);
            let missing = scorer.as_ref().and_then(|scorer| scorer.needs());
            if let Some(signal) = missing.filter(|signal| dialect.is_some_and(|dialect| !dialect.supplies(*signal))) {
                let message = format!("{name} needs the {}, which this pool's engine doesn't give", signal.name());
                self.error(&format!("{path}.type"), message);
            }
            scorers.extend(scorer.map(|scorer| WeightedScorer { scorer, weight: weight as f32 }));
        }
        scorers
    }

    fn scorer(
        &mut self,
        path: &str,
        name: &str,
        raw: &raw::ScorerParameters,
        labels: &[Labels],
    ) -> Option<Box<dyn Scorer>> {
        let known = scorer::all();
        let names: Vec<&str> = known.iter().map(|scorer| scorer.name()).collect();
        self.known(&format!("{path}.type"), "scorer", name, &names);
        self.no_other_parameters(path, name, &serde_json::to_value(raw).unwrap_or_default());
        let at = |key: &str| format!("{path}.parameters.{key}");
        let whole = u64::from(u32::MAX);
        Some(match name {
            "load-aware-scorer" => {
                Box::new(LoadAware { threshold: self.count(&at("threshold"), raw.threshold, 128, 1..=whole) })
            }
            "prefix-cache-scorer" => Box::new(PrefixCache {
                match_length_weight: self.share(&at("matchLengthWeight"), raw.match_length_weight, 0.0),
                match_length_scale_tokens: self.count(
                    &at("matchLengthScaleTokens"),
                    raw.match_length_scale_tokens,
                    8192,
                    1..=whole,
                ),
            }),
            "active-request-scorer" => Box::new(ActiveRequest {
                idle_threshold: self.count(&at("idleThreshold"), raw.idle_threshold, 0, 0..=whole),
                max_busy_score: self.share(&at("maxBusyScore"), raw.max_busy_score, 1.0),
            }),
            "token-load-scorer" => {
                let default = TokenLoad::default().queue_threshold_tokens;
                let tokens =
                    self.integer(&at("queueThresholdTokens"), raw.queue_threshold_tokens, default, 1..=1 << 53);
                Box::new(TokenLoad { queue_threshold_tokens: tokens })
            }
            scorer::CONTEXT_LENGTH_AWARE => {
                self.ranges(path, labels);
                Box::new(ContextLengthAware)
            }
            _ => known.into_iter().find(|scorer| scorer.name() == name)?,
        })
    }

    /// Checks the ranges in the labels of endpoints that are written down; a scorer that could tell nobody apart is a mistake.
    fn ranges(&mut self, path: &str, labels: &[Labels]) {
        let path = format!("{path}.type");
        let values = || labels.iter().filter_map(|labels| labels.get(labels::CONTEXT_LENGTH));
        for value in values().filter(|value| labels::parse_range(value).is_none()) {
            self.error(&path, format!("the label's value {value:?} is not a range: write MIN-MAX in tokens"));
        }
        if !labels.is_empty() && values().next().is_none() {
            self.error(&path, format!("no endpoint has the label {:?}", labels::CONTEXT_LENGTH));
        }
    }

    fn filter(
        &mut self,
        path: &str,
        raw: raw::Filter,
        labels: &[Labels],
        selectors: &mut Vec<Labels>,
    ) -> Option<Box<dyn Filter>> {
        let Some(name) = raw.type_ else {
            self.error(&format!("{path}.type"), "is required");
            return None;
        };
        let parameters = raw.parameters.unwrap_or_default();
        self.known(&format!("{path}.type"), "filter", &name, &filter::NAMES);
        self.no_other_parameters(path, &name, &serde_json::to_value(&parameters).unwrap_or_default());
        let path = format!("{path}.parameters");
        match name.as_str() {
            "label-selector-filter" => {
                let selector = self.label_selector(&path, parameters.match_labels.unwrap_or_default(), labels);
                if selectors.len() == MAX_SELECTORS {
                    self.error(&path, format!("at most {MAX_SELECTORS} label-selector-filters are allowed"));
                    return None;
                }
                selectors.push(selector);
                Some(Box::new(LabelSelector { selector: selectors.len() - 1 }))
            }
            "utilization-filter" => self.utilization(&path, &parameters),
            _ => None,
        }
    }

    fn label_selector(&mut self, path: &str, wanted: Labels, labels: &[Labels]) -> Labels {
        let path = format!("{path}.matchLabels");
        if wanted.is_empty() {
            self.error(&path, "names no label");
        }
        let has_all = |labels: &Labels| wanted.iter().all(|(key, value)| labels.get(key) == Some(value));
        if !labels.is_empty() && !labels.iter().any(has_all) {
            self.error(&path, "no endpoint has these labels");
        }
        wanted
    }

    fn utilization(&mut self, path: &str, raw: &raw::FilterParameters) -> Option<Box<dyn Filter>> {
        let mut limit = |key: &str, value: Option<u64>| {
            value.map(|value| self.count(&format!("{path}.{key}"), Some(value), 0, 0..=u64::from(u32::MAX)))
        };
        let max_active = limit("maxActive", raw.max_active);
        let max_running = limit("maxRunning", raw.max_running);
        let max_waiting = limit("maxWaiting", raw.max_waiting);
        let usage = raw.max_kv_cache_usage;
        let max_kv_cache_usage = usage.map(|usage| self.share(&format!("{path}.maxKvCacheUsage"), Some(usage), 1.0));
        let limits = Limits { max_active, max_running, max_waiting, max_kv_cache_usage };
        if limits == Limits::default() {
            self.error(path, "sets no limit");
        }
        Some(Box::new(Utilization { limits, falls_back: raw.fallback_on_empty.unwrap_or(true) }))
    }

    /// Notes a name that no plugin has.
    fn known(&mut self, path: &str, kind: &str, name: &str, known: &[&str]) {
        if !known.contains(&name) {
            self.error(path, format!("there is no {kind} {name:?}; known are {}", known.join(", ")));
        }
    }

    /// Notes parameters that belong to other plugins: they would have no effect.
    fn no_other_parameters(&mut self, path: &str, name: &str, given: &serde_json::Value) {
        let own = PARAMETERS.iter().find(|(plugin, _)| *plugin == name).map_or(&[][..], |(_, keys)| keys);
        let given = given.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        for (key, _) in given.filter(|(key, _)| !own.contains(&key.as_str())) {
            self.error(&format!("{path}.parameters.{key}"), format!("{name} has no such parameter"));
        }
    }

    fn count(&mut self, path: &str, value: Option<u64>, default: u64, range: std::ops::RangeInclusive<u64>) -> u32 {
        u32::try_from(self.integer(path, value, default, range)).unwrap_or(u32::MAX)
    }

    fn share(&mut self, path: &str, value: Option<f64>, default: f32) -> f32 {
        match value {
            Some(value) if (0.0..=1.0).contains(&value) => value as f32,
            Some(value) => {
                self.error(path, format!("{value} is not between 0 and 1"));
                default
            }
            None => default,
        }
    }
}
