//! What a push is doing: a bar on a terminal, lines elsewhere.

use indicatif::{ProgressBar, ProgressStyle};

use super::image::Blob;

/// Tells about one image, on standard error.
pub(super) struct Progress {
    image: String,
    /// Without a terminal it is not seen.
    bar: ProgressBar,
}

impl Progress {
    pub(super) fn new(image: String) -> Progress {
        let bar = ProgressBar::no_length();
        if let Ok(style) = ProgressStyle::with_template("{msg} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec}") {
            bar.set_style(style);
        }
        bar.set_message(image.clone());
        Progress { image, bar }
    }

    /// A blob is about to be uploaded.
    pub(super) fn start(&self, blob: &Blob) {
        self.bar.reset();
        self.bar.set_length(blob.bytes.len().try_into().unwrap_or(u64::MAX));
    }

    /// So many bytes of it have arrived.
    pub(super) fn advance(&self, bytes: usize) {
        self.bar.set_position(bytes.try_into().unwrap_or(u64::MAX));
    }

    /// A blob or manifest is done.
    pub(super) fn done(&self, blob: &Blob, what: &str) {
        self.bar.finish_and_clear();
        eprintln!("{}: {} {what} ({} bytes)", self.image, blob.descriptor.digest, blob.bytes.len());
    }

    /// Something went wrong and is tried again.
    pub(super) fn trouble(&self, what: &str) {
        self.bar.suspend(|| eprintln!("{}: {what}", self.image));
    }
}
