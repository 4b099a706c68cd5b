//! `inferencectl check`: says on a desk what the filters would say in Envoy's log.

use std::io::Read;
use std::path::Path;

use anyhow::{Context, bail};
use inference_plugin::config::{self, Config};

/// Checks a document and prints what it amounts to.
pub fn run(file: &Path) -> anyhow::Result<()> {
    let config = load(&read(file)?)?;
    let endpoints: usize = config.pools.iter().map(|pool| pool.endpoints.len()).sum();
    let models: usize = config.pools.iter().map(|pool| 1 + pool.adapters.len()).sum::<usize>() + config.models.len();
    let count = |count: usize, what: &str| format!("{count} {what}{}", if count == 1 { "" } else { "s" });
    println!(
        "{}: ok: {}, {}, {}",
        file.display(),
        count(config.pools.len(), "pool"),
        count(endpoints, "endpoint"),
        count(models, "model name")
    );
    Ok(())
}

/// Reads a document; `-` is standard input.
pub fn read(file: &Path) -> anyhow::Result<Vec<u8>> {
    if file == Path::new("-") {
        let mut text = Vec::new();
        std::io::stdin().read_to_end(&mut text).context("cannot read standard input")?;
        return Ok(text);
    }
    let mut text = Vec::new();
    std::fs::File::open(file)
        .and_then(|mut file| file.read_to_end(&mut text))
        .with_context(|| format!("cannot read {}", file.display()))?;
    Ok(text)
}

/// Checks a document; the error lists every mistake on a line of its own.
pub fn load(text: &[u8]) -> anyhow::Result<Config> {
    match config::parse(text) {
        Ok(config) => Ok(config),
        Err(errors) => {
            let count = errors.iter().count();
            bail!("the plugin configuration has {count} {}:\n{errors}", if count == 1 { "mistake" } else { "mistakes" })
        }
    }
}
