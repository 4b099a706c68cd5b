//! Uploads of blobs that survive broken connections.
//!
//! A blob goes in pieces, and after an error the registry is asked how much of it has arrived. One that cannot say, or
//! has forgotten the upload, gets the blob from its beginning.

use std::time::Duration;

use anyhow::Context;
use oci_client::Reference;
use oci_client::errors::OciDistributionError;
use oci_client::secrets::RegistryAuth;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, LOCATION, RANGE};
use reqwest::{RequestBuilder, Response, StatusCode, Url};

use super::image::Blob;
use super::progress::Progress;
use super::registry::Registry;

/// Tries without progress before a push gives up: with these pauses, after eight seconds or so. A registry that
/// restarts is back by then; one that is gone should be noticed.
const ATTEMPTS: u32 = 5;

/// The first pause; each is twice as long as the one before.
const PAUSE: Duration = Duration::from_millis(500);

/// How often something has failed in a row.
#[derive(Debug, Default)]
pub(super) struct Patience {
    failures: u32,
    furthest: usize,
}

impl Patience {
    /// Waits before another try, or gives the error back when there shall be none.
    pub(super) async fn wait(&mut self, error: anyhow::Error, progress: &Progress) -> anyhow::Result<()> {
        self.failures += 1;
        if self.failures >= ATTEMPTS || !is_passing(&error) {
            return Err(error);
        }
        let pause = PAUSE * (1 << (self.failures - 1));
        progress.trouble(&format!("{error:#}; trying again in {} ms", pause.as_millis()));
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// An upload that gets on may fail as often as before.
    fn reached(&mut self, offset: usize) {
        if offset > self.furthest {
            self.furthest = offset;
            self.failures = 0;
        }
    }
}

/// An answer that another try may better.
#[derive(Debug)]
struct Interrupted(StatusCode);

impl std::fmt::Display for Interrupted {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "the registry answered {} to an upload", self.0)
    }
}

impl std::error::Error for Interrupted {}

/// An upload that a registry keeps open.
struct Session {
    /// Where the next piece goes; every answer may name another place.
    location: Url,
    /// How much has arrived.
    offset: usize,
}

/// Uploads a blob, unless the registry has it.
pub(super) async fn push_blob(
    registry: &Registry,
    image: &Reference,
    blob: &Blob,
    progress: &Progress,
) -> anyhow::Result<()> {
    progress.start(blob);
    let mut session = None;
    let mut patience = Patience::default();
    let sent = loop {
        let upload = Upload { registry, image, blob, progress };
        let attempt = upload.attempt(&mut session).await;
        patience.reached(session.as_ref().map_or(0, |session| session.offset));
        match attempt {
            Ok(sent) => break sent,
            Err(error) => {
                // A session that is forgotten, or stands elsewhere than it says, is of no use any more.
                if let Some(Interrupted(StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE)) =
                    error.downcast_ref()
                {
                    session = None;
                }
                let error = error.context(format!("cannot upload {}", blob.descriptor.digest));
                patience.wait(error, progress).await?;
            }
        }
    };
    progress.done(blob, if sent { "uploaded" } else { "is there already" });
    Ok(())
}

/// What an upload needs to know.
struct Upload<'a> {
    registry: &'a Registry,
    image: &'a Reference,
    blob: &'a Blob,
    progress: &'a Progress,
}

impl Upload<'_> {
    /// Goes on with a session, or opens one. Says whether anything had to be sent.
    async fn attempt(&self, session: &mut Option<Session>) -> anyhow::Result<bool> {
        let authorization = self.registry.authorization(self.image).await?;
        if let Some(open) = session.as_mut()
            && !self.resume(open, &authorization).await?
        {
            *session = None;
        }
        if session.is_none() {
            // An upload whose last answer was lost is complete, too.
            if self.registry.has(self.image, &self.blob.descriptor.digest).await? {
                return Ok(false);
            }
        }
        let session = match session {
            Some(session) => session,
            none => none.insert(self.open(&authorization).await?),
        };
        let (length, chunk) = (self.blob.bytes.len(), self.registry.chunk_bytes);
        // What fits into one request goes with the one that completes the upload, as every registry takes it.
        let is_small = session.offset == 0 && length <= chunk;
        while !is_small && session.offset < length {
            self.send_piece(session, chunk, &authorization).await?;
        }
        self.complete(session, is_small, &authorization).await?;
        Ok(true)
    }

    async fn open(&self, authorization: &RegistryAuth) -> anyhow::Result<Session> {
        let path = format!("v2/{}/blobs/uploads/", self.image.repository());
        let url = self.registry.origin.join(&path)?;
        let request = self.registry.http.post(url.clone()).header("content-length", "0");
        let response = self.send(request, &url, authorization).await?;
        let location = self.location(&response, &url)?.context("the registry opened an upload without saying where")?;
        Ok(Session { location, offset: 0 })
    }

    /// Asks how much has arrived. False if the session is of no use any more.
    async fn resume(&self, session: &mut Session, authorization: &RegistryAuth) -> anyhow::Result<bool> {
        let request = self.registry.http.get(session.location.clone());
        let request = self.authorize(request, &session.location, authorization);
        let response = request.send().await.map_err(|error| self.registry.unreachable(error))?;
        let arrived = response.headers().get(RANGE).and_then(|range| range.to_str().ok()).and_then(arrived);
        let Some(offset) = arrived.filter(|_| response.status().is_success()) else {
            self.progress.trouble("the registry has lost the upload; it begins anew");
            return Ok(false);
        };
        if offset > self.blob.bytes.len() {
            return Ok(false);
        }
        if let Some(location) = self.location(&response, &session.location)? {
            session.location = location;
        }
        session.offset = offset;
        self.progress.trouble(&format!("the upload goes on at byte {offset}"));
        Ok(true)
    }

    async fn send_piece(
        &self,
        session: &mut Session,
        chunk: usize,
        authorization: &RegistryAuth,
    ) -> anyhow::Result<()> {
        let end = session.offset.saturating_add(chunk).min(self.blob.bytes.len());
        let request = self
            .registry
            .http
            .patch(session.location.clone())
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_RANGE, format!("{}-{}", session.offset, end.saturating_sub(1)))
            .body(self.blob.bytes.slice(session.offset..end));
        let response = self.send(request, &session.location, authorization).await?;
        if let Some(location) = self.location(&response, &session.location)? {
            session.location = location;
        }
        session.offset = end;
        self.progress.advance(end);
        Ok(())
    }

    async fn complete(
        &self,
        session: &Session,
        with_content: bool,
        authorization: &RegistryAuth,
    ) -> anyhow::Result<()> {
        let mut url = session.location.clone();
        url.query_pairs_mut().append_pair("digest", &self.blob.descriptor.digest);
        let request = self.registry.http.put(url.clone());
        let request = if with_content {
            request.header(CONTENT_TYPE, "application/octet-stream").body(self.blob.bytes.clone())
        } else {
            request.header("content-length", "0")
        };
        self.send(request, &url, authorization).await?;
        Ok(())
    }

    /// Sends a request of an upload; an answer that is no success is an error.
    async fn send(&self, request: RequestBuilder, url: &Url, authorization: &RegistryAuth) -> anyhow::Result<Response> {
        let request = self.authorize(request, url, authorization);
        let response = request.send().await.map_err(|error| self.registry.unreachable(error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let is_start = url.path().ends_with("/blobs/uploads/");
        match status {
            StatusCode::FORBIDDEN => Err(self.registry.refused(status)),
            // A token ends within minutes; what is refused at the start stays refused.
            StatusCode::UNAUTHORIZED if is_start || !matches!(authorization, RegistryAuth::Bearer(_)) => {
                Err(self.registry.refused(status))
            }
            StatusCode::UNAUTHORIZED | StatusCode::RANGE_NOT_SATISFIABLE | StatusCode::REQUEST_TIMEOUT => {
                Err(Interrupted(status).into())
            }
            StatusCode::NOT_FOUND if !is_start => Err(Interrupted(status).into()),
            _ if is_passing_status(status) => Err(Interrupted(status).into()),
            _ => {
                let text = response.text().await.unwrap_or_default();
                let text: String = text.chars().take(300).collect();
                Err(anyhow::anyhow!("the registry answered {status}: {}", text.trim()))
            }
        }
    }

    /// The login is for the registry alone; uploads may lead to somebody else's storage.
    fn authorize(&self, request: RequestBuilder, url: &Url, authorization: &RegistryAuth) -> RequestBuilder {
        if url.origin() == self.registry.origin.origin() { authorized(request, authorization) } else { request }
    }

    fn location(&self, response: &Response, base: &Url) -> anyhow::Result<Option<Url>> {
        let Some(location) = response.headers().get(LOCATION) else {
            return Ok(None);
        };
        let url = base.join(location.to_str()?).context("the registry named a location that is no URL")?;
        Ok(Some(url))
    }
}

/// A request with a login.
pub(super) fn authorized(request: RequestBuilder, authorization: &RegistryAuth) -> RequestBuilder {
    match authorization {
        RegistryAuth::Anonymous => request,
        RegistryAuth::Basic(user, password) => request.basic_auth(user, Some(password)),
        RegistryAuth::Bearer(token) => request.bearer_auth(token),
    }
}

/// How many bytes a range of an upload has: `0-99` are a hundred. Of nothing it says `0-0`, as of a single byte; then
/// a registry that has one refuses the next piece, and the upload begins anew.
fn arrived(range: &str) -> Option<usize> {
    let range = range.trim().trim_start_matches("bytes=");
    let last: usize = range.strip_prefix("0-")?.parse().ok()?;
    Some(if last == 0 { 0 } else { last.checked_add(1)? })
}

fn is_passing_status(status: StatusCode) -> bool {
    status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS
}

/// Whether another try may go better.
fn is_passing(error: &anyhow::Error) -> bool {
    if let Some(error) = error.downcast_ref::<OciDistributionError>() {
        return match error {
            OciDistributionError::ServerError { code, .. } => StatusCode::from_u16(*code).is_ok_and(is_passing_status),
            _ => false,
        };
    }
    if let Some(error) = error.downcast_ref::<reqwest::Error>() {
        return error.status().is_none_or(is_passing_status) && !error.is_builder() && !error.is_redirect();
    }
    error.downcast_ref::<Interrupted>().is_some()
}

#[cfg(test)]
mod tests {
    use super::arrived;

    #[test]
    fn ranges_are_inclusive() {
        assert_eq!(arrived("0-99"), Some(100));
        assert_eq!(arrived("bytes=0-99"), Some(100));
        assert_eq!(arrived("0-0"), Some(0));
        for wrong in ["", "0-", "5-9", "0--1", "0-18446744073709551615"] {
            assert_eq!(arrived(wrong), None, "{wrong:?}");
        }
    }
}
