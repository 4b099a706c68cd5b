//! The plugin JSON, from text to a configuration that needs no further checks.
//!
//! Both filters get the same document. [`raw`] mirrors what may be written; [`Config`] is what holds after
//! every check. Parsing never stops at the first mistake: a platform team that edits a long document wants
//! the whole list, each entry with its path.

mod check;
mod checked;
mod duration;
mod error;
mod extend;
mod lenient;
pub mod raw;
mod unique;

pub use checked::{
    AdapterName, Config, Discovery, EndpointAddress, FailureMode, MAX_ENDPOINTS, METRICS_CLUSTER, Model, Objective,
    Pods, PollerConfig, Pool, PoolId, Resources, Rewrite, SessionKey, Split, TargetModel,
};
pub use duration::{DurationError, parse as parse_duration};
pub use error::{ConfigError, ConfigErrors};
pub use extend::{Addition, Additions, Extended, extend};

/// Reads and checks a plugin JSON document; fails with every error in it.
pub fn parse(text: &[u8]) -> Result<Config, ConfigErrors> {
    let (raw, mut errors) = lenient::read(text);
    let config = raw.and_then(|raw| {
        // Of what was read and not of the text: white space is no difference.
        let fingerprint = crate::hash::bytes(&serde_json::to_vec(&raw).unwrap_or_default());
        check::check(raw, fingerprint, &mut errors)
    });
    match config {
        Some(config) if errors.is_empty() => Ok(config),
        _ => Err(errors),
    }
}
