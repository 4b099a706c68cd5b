//! `inferencectl push`: writes the two modules as OCI images and pushes them to a registry.
//!
//! The same bytes have the same digest whenever and wherever they are pushed, so what a registry has is not sent
//! again. `docs/oci.md` says how Envoy, Istio and Envoy Gateway use the result.

mod image;
mod login;
mod progress;
mod registry;
mod sbom;
mod sign;
mod target;
mod upload;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use oci_client::Reference;
use oci_client::annotations::{
    ORG_OPENCONTAINERS_IMAGE_CREATED, ORG_OPENCONTAINERS_IMAGE_DESCRIPTION, ORG_OPENCONTAINERS_IMAGE_LICENSES,
    ORG_OPENCONTAINERS_IMAGE_REVISION, ORG_OPENCONTAINERS_IMAGE_SOURCE, ORG_OPENCONTAINERS_IMAGE_TITLE,
    ORG_OPENCONTAINERS_IMAGE_VERSION,
};

use image::Image;
use progress::Progress;
use registry::Registry;
use target::Target;

/// Four mebibytes in one request: more are refused by some registries, fewer cost round trips.
const CHUNK: usize = 4 << 20;

/// What to push, and where to.
#[derive(Clone, Debug, Args)]
pub struct PushArgs {
    /// Where to: registry/repository[:tag]. The modules go to REPOSITORY/inference and REPOSITORY/metrics-poller; the
    /// tag is this program's version unless it is given.
    #[arg(value_name = "REF")]
    pub reference: String,
    /// The HTTP filter.
    #[arg(long, value_name = "FILE", default_value = "dist/inference.wasm")]
    pub inference: PathBuf,
    /// The metrics poller.
    #[arg(long, value_name = "FILE", default_value = "dist/metrics-poller.wasm")]
    pub poller: PathBuf,
    /// How the module is wrapped.
    #[arg(long, value_enum, default_value_t = Variant::Artifact)]
    pub variant: Variant,
    /// Speak HTTP to the registry, without TLS.
    #[arg(long)]
    pub plain_http: bool,
    /// An annotation of the manifests; replaces one of the same name.
    #[arg(long, value_name = "K=V", value_parser = annotation)]
    pub annotation: Vec<(String, String)>,
    /// The commit that the modules were built from, for an annotation.
    #[arg(long, value_name = "COMMIT")]
    pub revision: Option<String>,
    /// Where the source code is, for an annotation.
    #[arg(long, value_name = "URL")]
    pub source: Option<String>,
    /// Sign each manifest with this key, by running cosign.
    #[arg(long, value_name = "FILE")]
    pub cosign_key: Option<PathBuf>,
    /// How much of a module is sent in one request, in bytes. Smaller pieces lose less on a line that breaks.
    #[arg(long, value_name = "N", default_value_t = CHUNK)]
    pub chunk_bytes: usize,
    /// Print what would be pushed, and ask no registry.
    #[arg(long)]
    pub dry_run: bool,
}

/// How a module is wrapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// The module itself as a layer: for Envoy, Istio and Envoy Gateway.
    Artifact,
    /// A container image with plugin.wasm, under TAG-image: for Istio, Envoy Gateway, and registries that take nothing else.
    Image,
    /// The artifact under TAG, and the image under TAG-image.
    Both,
}

impl Variant {
    fn artifact(self) -> bool {
        self != Variant::Image
    }

    fn image(self) -> bool {
        self != Variant::Artifact
    }
}

/// One of the two modules.
#[derive(Clone, Copy, Debug)]
struct Module {
    /// The last part of its repository.
    name: &'static str,
    /// The crate that it is built from.
    package: &'static str,
    description: &'static str,
}

const INFERENCE: Module = Module {
    name: "inference",
    package: "inference-filter",
    description: "Envoy HTTP filter: routes LLM requests by model and picks the best model server",
};

const POLLER: Module = Module {
    name: "metrics-poller",
    package: "metrics-poller",
    description: "Envoy singleton: reads every model server's metrics and shares them with all workers",
};

/// What is pushed under one tag.
struct Release {
    image: Image,
    /// The document that lists what the module is made of.
    sbom: Image,
    reference: Reference,
    /// The blob that Envoy can load by itself, as hexadecimal SHA-256.
    module: Option<String>,
}

/// Builds, pushes and prints.
pub fn run(args: &PushArgs) -> anyhow::Result<()> {
    let target = Target::parse(&args.reference, env!("CARGO_PKG_VERSION"))?;
    ensure!(args.chunk_bytes > 0, "--chunk-bytes must be at least 1");
    let created = created()?;
    let mut releases = Vec::new();
    for (module, file, flag) in [(INFERENCE, &args.inference, "--inference"), (POLLER, &args.poller, "--poller")] {
        let bytes = read(file, flag)?;
        releases.extend(wrap(args, &target, module, &bytes, created)?);
    }
    if let Some(key) = &args.cosign_key {
        sign::check(key)?;
    }
    if !args.dry_run {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        runtime.block_on(push(args, &releases))?;
    }
    for release in &releases {
        if let (Some(key), false) = (&args.cosign_key, args.dry_run) {
            sign::run(key, &by_digest(release))?;
        }
        print(args, release);
    }
    Ok(())
}

/// All of a module that goes to the registry.
fn wrap(
    args: &PushArgs,
    target: &Target,
    module: Module,
    bytes: &Bytes,
    created: Option<chrono::DateTime<chrono::Utc>>,
) -> anyhow::Result<Vec<Release>> {
    let annotations = annotations(args, module, created);
    let mut releases = Vec::new();
    if args.variant.artifact() {
        let image = Image::artifact(module.name, bytes, annotations.clone())?;
        releases.push((image, target.module(module.name, "")?, true));
    }
    if args.variant.image() {
        let image = Image::container(bytes, created, annotations)?;
        releases.push((image, target.module(module.name, "-image")?, false));
    }
    let document = sbom::document(module.package, module.name, bytes, created)?;
    let finish = |(image, reference, raw): (Image, Reference, bool)| {
        let sbom = Image::referrer(&image, sbom::MEDIA_TYPE, document.clone())?;
        let module = raw.then(|| image::sha256(bytes).replace("sha256:", ""));
        Ok(Release { image, sbom, reference, module })
    };
    releases.into_iter().map(finish).collect()
}

async fn push(args: &PushArgs, releases: &[Release]) -> anyhow::Result<()> {
    let mut registry: Option<Registry> = None;
    for release in releases {
        let registry = match &mut registry {
            Some(registry) => registry,
            // Every module has the same registry, and the first contact says whether it takes the login.
            none => none.insert(Registry::open(&release.reference, args.plain_http, args.chunk_bytes).await?),
        };
        let progress = Progress::new(release.reference.to_string());
        registry.push(&release.reference, &release.image, &progress).await?;
        registry.attach(&release.reference, &release.image, &release.sbom, &progress).await?;
    }
    Ok(())
}

fn print(args: &PushArgs, release: &Release) {
    let digest = release.image.digest();
    let state = if args.dry_run { "would push" } else { "pushed" };
    println!("{state} {}", release.reference);
    println!("  digest: {digest}");
    println!("  sbom:   {}", release.sbom.digest());
    println!("  for Istio and Envoy Gateway: oci://{}", by_digest(release));
    let Some(sha256) = &release.module else {
        return;
    };
    let scheme = if args.plain_http { "http" } else { "https" };
    let (registry, repository) = (release.reference.resolve_registry(), release.reference.repository());
    println!("  for Envoy's vm_config, where the registry asks for no login:");
    // Envoy makes the key of a VM before it has fetched the code: without this, two modules with one vm_id are one VM,
    // and so are two versions of a module.
    println!("    configuration: {{\"@type\": type.googleapis.com/google.protobuf.StringValue, value: \"{sha256}\"}}");
    println!("    code:");
    println!("      remote:");
    println!("        http_uri:");
    println!("          uri: {scheme}://{registry}/v2/{repository}/blobs/sha256:{sha256}");
    println!("          cluster: oci-registry");
    println!("          timeout: 30s");
    println!("        sha256: \"{sha256}\"");
}

/// The reference that always means these bytes.
fn by_digest(release: &Release) -> String {
    format!("{}/{}@{}", release.reference.registry(), release.reference.repository(), release.image.digest())
}

fn read(file: &Path, flag: &str) -> anyhow::Result<Bytes> {
    let bytes = std::fs::read(file)
        .with_context(|| format!("cannot read {}: run ./build.sh, or name another with {flag}", file.display()))?;
    ensure!(
        bytes.starts_with(b"\0asm"),
        "{} is not a Wasm module: it does not begin with the bytes \\0asm",
        file.display()
    );
    Ok(Bytes::from(bytes))
}

fn annotations(
    args: &PushArgs,
    module: Module,
    created: Option<chrono::DateTime<chrono::Utc>>,
) -> BTreeMap<String, String> {
    let mut annotations = BTreeMap::new();
    let mut set = |name: &str, value: &str| annotations.insert(name.to_owned(), value.to_owned());
    set(ORG_OPENCONTAINERS_IMAGE_TITLE, module.name);
    set(ORG_OPENCONTAINERS_IMAGE_DESCRIPTION, module.description);
    set(ORG_OPENCONTAINERS_IMAGE_VERSION, env!("CARGO_PKG_VERSION"));
    set(ORG_OPENCONTAINERS_IMAGE_LICENSES, env!("CARGO_PKG_LICENSE"));
    // The package's own is empty as long as it names none.
    let source = args.source.as_deref().unwrap_or(env!("CARGO_PKG_REPOSITORY"));
    if !source.is_empty() {
        set(ORG_OPENCONTAINERS_IMAGE_SOURCE, source);
    }
    if let Some(revision) = &args.revision {
        set(ORG_OPENCONTAINERS_IMAGE_REVISION, revision);
    }
    if let Some(created) = created {
        set(ORG_OPENCONTAINERS_IMAGE_CREATED, &image::rfc3339(created));
    }
    annotations.extend(args.annotation.iter().cloned());
    annotations
}

fn annotation(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("an annotation is NAME=VALUE".to_owned()),
    }
}

/// When the images were made, if it is told. The clock is never asked: it would give every push another digest.
fn created() -> anyhow::Result<Option<chrono::DateTime<chrono::Utc>>> {
    let Some(text) = std::env::var_os("SOURCE_DATE_EPOCH") else {
        return Ok(None);
    };
    let text = text.to_string_lossy();
    let time = text.parse().ok().and_then(|seconds| chrono::DateTime::from_timestamp(seconds, 0));
    Ok(Some(time.with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds since 1970"))?))
}
