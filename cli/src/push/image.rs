//! Images as bytes: manifests, configurations and layers, the same for the same module.

use std::collections::BTreeMap;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use flate2::{Compression, GzBuilder};
use oci_client::annotations::ORG_OPENCONTAINERS_IMAGE_TITLE;
use oci_client::client::ImageLayer;
use oci_client::config::{Architecture, ConfigFile, Os, Rootfs};
use oci_client::manifest::{
    IMAGE_CONFIG_MEDIA_TYPE, IMAGE_LAYER_GZIP_MEDIA_TYPE, OCI_IMAGE_MEDIA_TYPE, OciDescriptor, OciImageManifest,
};

/// The media types of the Wasm Image Specification, by which Istio and Envoy Gateway know a module. Those that
/// oci-client has are the CNCF's newer ones, which neither of them reads.
const WASM_CONFIG: &str = "application/vnd.module.wasm.config.v1+json";
const WASM_LAYER: &str = "application/vnd.module.wasm.content.layer.v1+wasm";

/// What the image specification wants where a manifest needs no configuration.
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";

/// Says that the module is in a tar archive.
const COMPAT: (&str, &str) = ("module.wasm.image/variant", "compat");

/// Bytes that a registry keeps under their digest.
#[derive(Clone, Debug)]
pub(super) struct Blob {
    pub(super) descriptor: OciDescriptor,
    pub(super) bytes: Bytes,
}

impl Blob {
    pub(super) fn new(media_type: &str, bytes: impl Into<Bytes>) -> Blob {
        let bytes = bytes.into();
        let descriptor = OciDescriptor {
            media_type: media_type.to_owned(),
            digest: sha256(&bytes),
            size: i64::try_from(bytes.len()).unwrap_or(i64::MAX),
            ..OciDescriptor::default()
        };
        Blob { descriptor, bytes }
    }

    /// The name of the file that tools such as oras write it to.
    fn titled(mut self, name: &str) -> Blob {
        self.descriptor.annotations =
            Some(BTreeMap::from([(ORG_OPENCONTAINERS_IMAGE_TITLE.to_owned(), name.to_owned())]));
        self
    }
}

/// A manifest and all that it names.
#[derive(Clone, Debug)]
pub(super) struct Image {
    pub(super) manifest: Blob,
    pub(super) blobs: Vec<Blob>,
}

impl Image {
    /// A module as an OCI artifact.
    ///
    /// The Wasm Image Specification wants a layer for the configuration beside the module's, and Istio and Envoy Gateway
    /// refuse a manifest that has not exactly these two. Both the manifest's configuration and that layer are one blob.
    pub(super) fn artifact(
        name: &str,
        module: &Bytes,
        annotations: BTreeMap<String, String>,
    ) -> serde_json::Result<Image> {
        let config = Blob::new(WASM_CONFIG, "{}");
        let layer = Blob::new(WASM_LAYER, module.clone()).titled(&format!("{name}.wasm"));
        let layers = vec![layer.descriptor.clone(), config.descriptor.clone()];
        let manifest = OciImageManifest {
            config: config.descriptor.clone(),
            layers,
            annotations: Some(annotations),
            ..OciImageManifest::default()
        };
        Image::new(manifest, vec![config, layer])
    }

    /// A module as the one file of a container image.
    pub(super) fn container(
        module: &Bytes,
        created: Option<DateTime<Utc>>,
        mut annotations: BTreeMap<String, String>,
    ) -> anyhow::Result<Image> {
        let archive = archive(module)?;
        let config = ConfigFile {
            created,
            architecture: Architecture::Wasm,
            os: Os::Other("wasip1".to_owned()),
            rootfs: Rootfs { diff_ids: vec![sha256(&archive)], ..Rootfs::default() },
            ..ConfigFile::default()
        };
        let config = Blob::new(IMAGE_CONFIG_MEDIA_TYPE, serde_json::to_vec(&config)?);
        let layer = Blob::new(IMAGE_LAYER_GZIP_MEDIA_TYPE, compressed(&archive)?);
        let (name, value) = COMPAT;
        annotations.insert(name.to_owned(), value.to_owned());
        let manifest = OciImageManifest {
            config: config.descriptor.clone(),
            layers: vec![layer.descriptor.clone()],
            annotations: Some(annotations),
            ..OciImageManifest::default()
        };
        Ok(Image::new(manifest, vec![config, layer])?)
    }

    /// A document about an image.
    pub(super) fn referrer(subject: &Image, media_type: &str, document: Bytes) -> serde_json::Result<Image> {
        let config = Blob::new(EMPTY_CONFIG, "{}");
        let layer = Blob::new(media_type, document);
        let manifest = OciImageManifest {
            config: config.descriptor.clone(),
            layers: vec![layer.descriptor.clone()],
            subject: Some(subject.manifest.descriptor.clone()),
            artifact_type: Some(media_type.to_owned()),
            ..OciImageManifest::default()
        };
        let mut image = Image::new(manifest, vec![config, layer])?;
        // Lists of referrers say the type without a look at the manifest.
        image.manifest.descriptor.artifact_type = Some(media_type.to_owned());
        Ok(image)
    }

    /// The manifest's digest, which is the image's.
    pub(super) fn digest(&self) -> &str {
        &self.manifest.descriptor.digest
    }

    fn new(mut manifest: OciImageManifest, blobs: Vec<Blob>) -> serde_json::Result<Image> {
        manifest.media_type = Some(OCI_IMAGE_MEDIA_TYPE.to_owned());
        Ok(Image { manifest: Blob::new(OCI_IMAGE_MEDIA_TYPE, serde_json::to_vec(&manifest)?), blobs })
    }
}

/// The digest of bytes, as registries write it.
pub(super) fn sha256(bytes: &Bytes) -> String {
    ImageLayer::oci_v1(bytes.clone(), None).sha256_digest()
}

/// A time as annotations have it.
pub(super) fn rfc3339(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// A tar archive that knows neither time nor owner.
fn archive(module: &[u8]) -> std::io::Result<Bytes> {
    let mut header = tar::Header::new_ustar();
    header.set_size(u64::try_from(module.len()).unwrap_or(u64::MAX));
    header.set_entry_type(tar::EntryType::Regular);
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    let mut archive = tar::Builder::new(Vec::new());
    archive.append_data(&mut header, "plugin.wasm", module)?;
    Ok(Bytes::from(archive.into_inner()?))
}

fn compressed(bytes: &[u8]) -> std::io::Result<Vec<u8>> {
    let mut gzip = GzBuilder::new().mtime(0).write(Vec::new(), Compression::best());
    std::io::Write::write_all(&mut gzip, bytes)?;
    gzip.finish()
}
