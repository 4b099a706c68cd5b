//! Names that clients may ask for, what they stand for, and how much they matter.

use serde::{Deserialize, Serialize};

/// A name that clients may ask for, and what it stands for; the Inference Extension's InferenceModel.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Model {
    /// The name in the request's body, unique over all pools. Required. It may be a base model or an adapter of its own pool, which
    /// then stands for what is said here.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub model_name: Option<String>,
    /// The pool that serves it. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub pool: Option<String>,
    /// How much its requests matter, in words: `Critical` is priority 1, `Standard` 0, `Sheddable` -1. Not together with `priority`.
    pub criticality: Option<Criticality>,
    /// How much its requests matter, from -2147483648 to 2147483647: larger ones leave a queue first, and those below 0 are refused
    /// while the pool is saturated. The default is 0.
    pub priority: Option<i64>,
    /// The pool's base model or adapters that it stands for; one is drawn for each request, by weight. At most 10. The default is the
    /// name itself where the pool serves it, and the base model otherwise.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<TargetModel>>"))]
    pub target_models: Option<Vec<Option<TargetModel>>>,
    /// Whether a session (see `sessionKeys`) always gets the same one of the target models. The default is false. When weights change,
    /// only as many sessions move as must.
    pub sticky: Option<bool>,
    /// Whether answers name the model as the client did, and not as the engine does. The default is false.
    pub restore_model_name: Option<bool>,
}

/// How much a model's requests matter.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum Criticality {
    /// Priority 1.
    Critical,
    /// Priority 0.
    Standard,
    /// Priority -1: refused while the pool is saturated.
    Sheddable,
}

/// One of the models that a name stands for.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct TargetModel {
    /// The pool's base model, or one of its adapters. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub name: Option<String>,
    /// Its share of the requests, relative to the others', from 0 to 1000000. All have one, or none has; without, all are equal.
    pub weight: Option<u64>,
}

/// Rules by which a pool's requests ask for another model than the client did; the Inference Extension's InferenceModelRewrite.
///
/// They go before `targetModels`. An exact rule goes before a generic one; of two alike the first one counts, in this document's order.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ModelRewrite {
    /// The pool whose requests are rewritten. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub pool: Option<String>,
    /// The rules; at least one.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<RewriteRule>"))]
    pub rules: Option<Vec<Option<RewriteRule>>>,
}

/// One rule of a rewrite.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RewriteRule {
    /// The names that clients ask for; any of them matches. Without any, the rule is generic: it matches every request of the pool.
    #[cfg_attr(feature = "schema", schemars(with = "Option<Vec<RewriteMatch>>"))]
    pub matches: Option<Vec<Option<RewriteMatch>>>,
    /// What is asked for instead; one is drawn for each request, by weight. At least one.
    #[cfg_attr(feature = "schema", schemars(with = "Vec<RewriteTarget>"))]
    pub targets: Option<Vec<Option<RewriteTarget>>>,
    /// Whether a session (see `sessionKeys`) always gets the same target. The default is false.
    pub sticky: Option<bool>,
    /// Whether answers name the model as the client did, and not as the engine does. The default is false.
    pub restore_model_name: Option<bool>,
}

/// What a rule matches.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RewriteMatch {
    /// The name of the model. Required.
    #[cfg_attr(feature = "schema", schemars(with = "ModelMatch"))]
    pub model: Option<ModelMatch>,
}

/// How a model's name is compared.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct ModelMatch {
    /// How to compare: `Exact`, the default.
    #[serde(rename = "type")]
    pub type_: Option<MatchType>,
    /// The name in the request's body; no model of another pool. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub value: Option<String>,
}

/// How names are compared.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
pub enum MatchType {
    /// Byte for byte.
    Exact,
}

/// One of the models that are asked for instead.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct RewriteTarget {
    /// The pool's base model, or one of its adapters. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub model_rewrite: Option<String>,
    /// Its share of the requests, relative to the others', from 1 to 1000000. Without any weights all are equal; where some have one,
    /// those without are never chosen, as in the endpoint picker.
    pub weight: Option<u64>,
}

/// A name by which requests say how much they matter; the Inference Extension's InferenceObjective.
///
/// A request names it in the header `x-gateway-inference-objective`, if `trustedHeaders` has that, and its priority then goes before the
/// model's.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct Objective {
    /// The name, unique in its pool. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub name: Option<String>,
    /// The pool whose requests may name it. Required.
    #[cfg_attr(feature = "schema", schemars(with = "String"))]
    pub pool: Option<String>,
    /// The priority, from -2147483648 to 2147483647. The default is 0; requests below 0 are refused while the pool is saturated.
    pub priority: Option<i64>,
}

/// Where a request says to which session it belongs: exactly one of the three.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(default, deny_unknown_fields, rename_all = "camelCase")]
pub struct SessionKey {
    /// The name of a header.
    pub header: Option<String>,
    /// The name of a cookie.
    pub cookie: Option<String>,
    /// The name of a member of the JSON body, such as `user` or `prompt_cache_key`, whose value is a string.
    pub body_field: Option<String>,
}
