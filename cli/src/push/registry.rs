//! A registry: login, blobs, manifests and referrers.
//!
//! oci-client does what it has calls for. Its uploads keep their session to themselves and begin anew after any
//! error, so that part is in `upload.rs`, with the HTTP client that it brings.

use std::time::Duration;

use anyhow::{Context, bail};
use oci_client::client::{ClientConfig, ClientProtocol};
use oci_client::errors::OciDistributionError;
use oci_client::manifest::{OCI_IMAGE_INDEX_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE};
use oci_client::secrets::RegistryAuth;
use oci_client::{Client, Reference, RegistryOperation};
use reqwest::StatusCode;
use reqwest::header::HeaderValue;
use serde_json::{Value, json};

use super::image::{Blob, Image};
use super::login::Login;
use super::progress::Progress;
use super::upload::{self, Patience};

/// Longer than any registry needs to accept a connection; shorter, and one across the world would be given up.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A registry stores what it got before it answers, to a slow disk at times.
const READ_TIMEOUT: Duration = Duration::from_secs(120);

const USER_AGENT: &str = concat!("inferencectl/", env!("CARGO_PKG_VERSION"));

/// A registry that has taken the login.
pub(super) struct Registry {
    client: Client,
    pub(super) http: reqwest::Client,
    login: Login,
    /// For messages.
    name: String,
    /// The address, with the scheme and without a path.
    pub(super) origin: reqwest::Url,
    pub(super) chunk_bytes: usize,
}

impl Registry {
    /// Makes the first contact. Nothing is tried twice here: a wrong name or password stays wrong.
    pub(super) async fn open(image: &Reference, plain_http: bool, chunk_bytes: usize) -> anyhow::Result<Registry> {
        let name = image.resolve_registry().to_owned();
        let login = Login::find(&name)?;
        // An error says that there is a provider already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let config = ClientConfig {
            protocol: if plain_http { ClientProtocol::Http } else { ClientProtocol::Https },
            connect_timeout: Some(CONNECT_TIMEOUT),
            read_timeout: Some(READ_TIMEOUT),
            user_agent: USER_AGENT,
            ..ClientConfig::default()
        };
        let client = Client::try_from(config).context("no HTTP client, perhaps for want of certificates")?;
        let http = reqwest::Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(READ_TIMEOUT)
            .build()
            .context("no HTTP client")?;
        let scheme = if plain_http { "http" } else { "https" };
        let origin = format!("{scheme}://{name}/").parse().with_context(|| format!("{name} is no host"))?;
        let registry = Registry { client, http, login, name, origin, chunk_bytes };
        registry.check_login(image).await?;
        Ok(registry)
    }

    /// Pushes an image: first what the manifest names, then the manifest.
    pub(super) async fn push(&self, image: &Reference, content: &Image, progress: &Progress) -> anyhow::Result<()> {
        for blob in &content.blobs {
            upload::push_blob(self, image, blob, progress).await?;
        }
        self.push_manifest(image, &content.manifest, progress).await
    }

    /// Attaches a document to an image that is there.
    pub(super) async fn attach(
        &self,
        image: &Reference,
        subject: &Image,
        document: &Image,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        // With a digest for a tag, oci-client uses it as it stands; given as a digest, it panics where a registry
        // answers without a location.
        self.push(&tagged(image, document.digest()), document, progress).await?;
        let subject = Reference::with_digest(
            image.registry().to_owned(),
            image.repository().to_owned(),
            subject.digest().to_owned(),
        );
        // Registries without the API answer all kinds of errors to it.
        if let Ok(index) = self.client.pull_referrers(&subject, None).await
            && index.manifests.iter().any(|entry| entry.digest == document.digest())
        {
            return Ok(());
        }
        self.list_under_fallback_tag(image, &subject, document, progress).await
    }

    /// A registry without the referrers API keeps their list under a tag, which clients write.
    async fn list_under_fallback_tag(
        &self,
        image: &Reference,
        subject: &Reference,
        document: &Image,
        progress: &Progress,
    ) -> anyhow::Result<()> {
        let list = tagged(image, &subject.digest().unwrap_or_default().replace(':', "-"));
        let mut index = self.fallback_index(&list).await?;
        let Some(entries) = index.get_mut("manifests").and_then(Value::as_array_mut) else {
            bail!("{list} is not a list of referrers");
        };
        if entries.iter().any(|entry| entry.get("digest").and_then(Value::as_str) == Some(document.digest())) {
            return Ok(());
        }
        entries.push(serde_json::to_value(&document.manifest.descriptor)?);
        let index = Blob::new(OCI_IMAGE_INDEX_MEDIA_TYPE, serde_json::to_vec(&index)?);
        self.push_manifest(&list, &index, progress).await
    }

    /// The list as it is. An error is never taken for an empty list, which would make others' referrers vanish.
    async fn fallback_index(&self, list: &Reference) -> anyhow::Result<Value> {
        match self.client.pull_manifest_raw(list, &self.login.auth, &[OCI_IMAGE_INDEX_MEDIA_TYPE]).await {
            Ok((bytes, _)) => serde_json::from_slice(&bytes).with_context(|| format!("{list} is not JSON")),
            Err(error) if is_unknown(&error) => {
                Ok(json!({"schemaVersion": 2, "mediaType": OCI_IMAGE_INDEX_MEDIA_TYPE, "manifests": []}))
            }
            Err(error) => Err(self.explained(error)).with_context(|| format!("cannot read {list}")),
        }
    }

    async fn push_manifest(&self, image: &Reference, manifest: &Blob, progress: &Progress) -> anyhow::Result<()> {
        let digest = &manifest.descriptor.digest;
        let mut patience = Patience::default();
        loop {
            // Whether it was answered, not told, or is not there: then it is pushed.
            let there = self.client.fetch_manifest_digest(image, &self.login.auth).await;
            if there.is_ok_and(|there| &there == digest) {
                progress.done(manifest, "manifest is there already");
                return Ok(());
            }
            let media_type = HeaderValue::from_str(&manifest.descriptor.media_type)
                .unwrap_or(HeaderValue::from_static(OCI_IMAGE_MEDIA_TYPE));
            match self.client.push_manifest_raw(image, manifest.bytes.clone(), media_type).await {
                Ok(_) => {
                    progress.done(manifest, "manifest pushed");
                    return Ok(());
                }
                Err(error) => {
                    let error = self.explained(error).context(format!("cannot push the manifest {image}"));
                    patience.wait(error, progress).await?;
                }
            }
        }
    }

    /// Whether a repository has a blob.
    pub(super) async fn has(&self, image: &Reference, digest: &str) -> anyhow::Result<bool> {
        self.client.blob_exists(image, digest).await.map_err(|error| self.explained(error))
    }

    /// What to send with requests for a repository; for some registries a token that lasts minutes.
    pub(super) async fn authorization(&self, image: &Reference) -> anyhow::Result<RegistryAuth> {
        let token = self.client.auth(image, &self.login.auth, RegistryOperation::Push).await;
        Ok(match token.map_err(|error| self.explained(error))? {
            Some(token) => RegistryAuth::Bearer(token),
            None => self.login.auth.clone(),
        })
    }

    /// The error for an answer that says the login is missing, wrong, or not good enough.
    pub(super) fn refused(&self, status: StatusCode) -> anyhow::Error {
        let (name, who) = (&self.name, &self.login.who);
        match (status, &self.login.auth) {
            (StatusCode::FORBIDDEN, _) => anyhow::anyhow!("the registry {name} does not allow this with {who}"),
            (_, RegistryAuth::Anonymous) => {
                anyhow::anyhow!("the registry {name} wants a login ({who}): run docker login {name}")
            }
            _ => anyhow::anyhow!("the registry {name} refuses {who}: run docker login {name} again"),
        }
    }

    async fn check_login(&self, image: &Reference) -> anyhow::Result<()> {
        let authorization = self.authorization(image).await?;
        if matches!(authorization, RegistryAuth::Bearer(_)) {
            return Ok(());
        }
        let request = upload::authorized(self.http.get(self.origin.join("v2/")?), &authorization);
        let status = request.send().await.map_err(|error| self.unreachable(error))?.status();
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return Err(self.refused(status));
        }
        Ok(())
    }

    /// An error of oci-client's with the registry's name, and without URLs, which may have tokens in them.
    fn explained(&self, error: OciDistributionError) -> anyhow::Error {
        match error {
            OciDistributionError::RequestError(error) => match error.status() {
                Some(status @ (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN)) => self.refused(status),
                Some(status) => anyhow::Error::new(error.without_url())
                    .context(format!("the registry {} answered {status}", self.name)),
                None => self.unreachable(error),
            },
            OciDistributionError::UnauthorizedError { .. } => self.refused(StatusCode::UNAUTHORIZED),
            OciDistributionError::AuthenticationFailure(reason) => {
                let reason: String = reason.trim().chars().take(300).collect();
                anyhow::anyhow!(reason).context(self.refused(StatusCode::UNAUTHORIZED).to_string())
            }
            OciDistributionError::ServerError { code: code @ (401 | 403), .. } => {
                self.refused(StatusCode::from_u16(code).unwrap_or(StatusCode::FORBIDDEN))
            }
            error => anyhow::Error::new(error).context(format!("the registry {}", self.name)),
        }
    }

    /// The error for a request that got no answer.
    pub(super) fn unreachable(&self, error: reqwest::Error) -> anyhow::Error {
        let what = if error.is_connect() { "cannot connect to" } else { "lost the connection to" };
        let hint = match self.origin.scheme() {
            "https" if error.is_connect() => " (--plain-http is for registries without TLS)",
            _ => "",
        };
        anyhow::Error::new(error.without_url()).context(format!("{what} the registry {}{hint}", self.name))
    }
}

/// Another tag of the same repository.
fn tagged(image: &Reference, tag: &str) -> Reference {
    Reference::with_tag(image.registry().to_owned(), image.repository().to_owned(), tag.to_owned())
}

fn is_unknown(error: &OciDistributionError) -> bool {
    use oci_client::errors::OciErrorCode::{ManifestUnknown, NameUnknown, NotFound};
    match error {
        OciDistributionError::ImageManifestNotFoundError(_) => true,
        OciDistributionError::ServerError { code, .. } => *code == 404,
        OciDistributionError::RegistryError { envelope, .. } => {
            envelope.errors.iter().any(|error| matches!(error.code, ManifestUnknown | NameUnknown | NotFound))
        }
        _ => false,
    }
}
