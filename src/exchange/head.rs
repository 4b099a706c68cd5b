//! What the headers of a request decide: whether it is looked at, and how.

use crate::hash;
use crate::headers;

/// What of a request's headers matters.
#[derive(Default)]
pub(super) struct Head<'h> {
    pub(super) method: &'h [u8],
    pub(super) path: &'h [u8],
    pub(super) content_encoding: &'h [u8],
    pub(super) content_length: Option<u64>,
    /// A hash of the session that the client names.
    pub(super) session: Option<u64>,
    /// The endpoints that an earlier filter allows.
    pub(super) subset: Option<&'h [u8]>,
}

/// The ends of the paths whose bodies name a model, whatever a gateway puts before them. All but the first are
/// common words, which only the version makes an inference request of.
const INFERENCE_PATHS: [&[u8]; 5] =
    [b"/chat/completions", b"/v1/completions", b"/v1/embeddings", b"/v1/responses", b"/v1/messages"];

impl<'h> Head<'h> {
    /// Takes a header in that isn't one of ours.
    pub(super) fn note(&mut self, name: &str, value: &'h [u8]) {
        match name {
            ":method" => self.method = value,
            ":path" => self.path = value,
            "content-encoding" => self.content_encoding = value,
            "content-length" => self.content_length = ascii_number(value),
            headers::SESSION => self.session = Some(hash::bytes(value)),
            _ => {}
        }
    }

    pub(super) fn is_inference(&self) -> bool {
        let path = self.path.split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
        self.method == b"POST" && INFERENCE_PATHS.iter().any(|end| path.ends_with(end))
    }

    /// The coding that hides the body, if there is one.
    pub(super) fn coding(&self) -> Option<String> {
        let coding = self.content_encoding.trim_ascii();
        let plain = coding.is_empty() || coding.eq_ignore_ascii_case(b"identity");
        (!plain).then(|| String::from_utf8_lossy(coding).into_owned())
    }
}

fn ascii_number(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.trim().parse().ok()
}
