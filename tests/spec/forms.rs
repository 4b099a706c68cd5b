//! Forms beside multer, which reads them for axum's and warp's servers: what is taken here is read alike there.

use futures::{executor, stream};
use inference_plugin::scan::{self, Format, Model, ScanErrorKind, Wanted};
use inference_plugin::shape::Shape;
use proptest::prelude::*;

/// Pieces of which forms are made, plain ones and those that readers differ about.
const PIECES: [&str; 40] = [
    "--b\r\n",
    "--b\r\n",
    "--b\r\n",
    "\r\n--b\r\n",
    "\r\n--b\r\n",
    "\r\n--b--\r\n",
    "\r\n--b--\r\n",
    "--b--",
    "\n--b\r\n",
    "\r\n--b \r\n",
    "\r\n--bb\r\n",
    "\r\n--b\n",
    "Content-Disposition: form-data; name=\"model\"\r\n\r\n",
    "Content-Disposition: form-data; name=\"model\"\r\n\r\n",
    "Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n",
    "Content-Disposition: form-data; name=\"y\"; name=\"model\"\r\n\r\n",
    "Content-Disposition: form-data; name=\"model\"; name=\"y\"\r\n\r\n",
    "content-disposition:form-data;name=model\r\n\r\n",
    "Content-Disposition: form-data; name=\"y\"\r\n",
    "Content-Disposition: form-data; name=\"model\"\r\n",
    "Content-Disposition: form-data; name*=utf-8''model\r\n\r\n",
    "Content-Disposition: form-data; name=\"a\\\"; name=\\\"model\"\r\n\r\n",
    "Content-Disposition: form-data; name=\"x;name=model\"\r\n\r\n",
    "Content-Type: text/plain; charset=utf-8\r\n",
    "Content-Type: text/plain; charset=utf-16\r\n",
    "Content-Transfer-Encoding: base64\r\n",
    "X: y\r\n",
    " folded\r\n",
    "\r\n",
    "\r\n\r\n",
    "\n",
    "\r",
    "base",
    "secret",
    "é",
    "\"",
    ";",
    "-",
    "--",
    "b",
];

/// The text of the last field of this name, as multer and the servers on it have it; `None` for what it doesn't take.
fn of_multer(body: &[u8], wanted: &str) -> Option<Option<String>> {
    let chunks = stream::iter([Ok::<_, std::io::Error>(body.to_vec())]);
    let mut form = multer::Multipart::new(chunks, "b");
    executor::block_on(async {
        let mut found = None;
        loop {
            match form.next_field().await {
                Ok(Some(field)) if field.name() == Some(wanted) && field.file_name().is_none() => {
                    found = Some(field.text().await.ok()?);
                }
                Ok(Some(_)) => {}
                Ok(None) => return Some(found),
                Err(_) => return None,
            }
        }
    })
}

fn of_scan(body: &[u8]) -> Result<Option<String>, ScanErrorKind> {
    let Some(shape) = Shape::of(b"POST", b"/v1/audio/transcriptions") else { return Ok(None) };
    match scan::scan(body, shape, Some("b"), Wanted::All).map_err(|error| error.kind)?.model {
        Some(Model::Name { name, .. }) => Ok(Some(name.into_owned())),
        Some(Model::NotAName) => Err(ScanErrorKind::Unexpected),
        None => Ok(None),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn a_form_that_is_taken_is_read_alike(pieces in prop::collection::vec(prop::sample::select(PIECES.to_vec()), 0..16)) {
        let body = pieces.concat();
        if let (Ok(ours), Some(theirs)) = (of_scan(body.as_bytes()), of_multer(body.as_bytes(), "model")) {
            prop_assert_eq!(ours, theirs, "{:?}", body);
        }
    }

    #[test]
    fn what_clients_write_is_taken(
        fields in prop::collection::vec(("[a-z_\\[\\]]{1,12}", "[ -~é€\r\n]{0,40}", any::<bool>()), 0..6),
        model in "[ -~é]{1,20}",
        at in 0usize..6,
    ) {
        let mut parts: Vec<String> = fields
            .iter()
            .filter(|(name, value, _)| name != "model" && name != "_charset_" && !value.contains("--b"))
            .map(|(name, value, is_file)| {
                let file = if *is_file { "; filename=\"a; b.wav\"\r\nContent-Type: audio/wav" } else { "" };
                format!("--b\r\nContent-Disposition: form-data; name=\"{name}\"{file}\r\n\r\n{value}\r\n")
            })
            .collect();
        prop_assume!(!model.contains("--b"));
        let part = format!("--b\r\nContent-Disposition: form-data; name=\"model\"\r\n\r\n{model}\r\n");
        parts.insert(at.min(parts.len()), part);
        let body = parts.concat() + "--b--\r\n";
        prop_assert_eq!(of_scan(body.as_bytes()), Ok(Some(model.clone())), "{:?}", body);
        prop_assert_eq!(of_multer(body.as_bytes(), "model"), Some(Some(model)));
    }

    #[test]
    fn a_boundary_that_is_taken_is_multers(
        kind in prop::sample::select(vec!["multipart/form-data", "Multipart/Form-Data", "multipart/mixed", "application/json"]),
        rest in "(; ?(boundary|Boundary|charset|x)=(a|b|\"b\"|utf-8|\"a;b\"|a\"b|a b)){0,3}",
    ) {
        let content_type = format!("{kind}{rest}");
        if let Format::Form(boundary) = Format::of(content_type.as_bytes()) {
            prop_assert_eq!(multer::parse_boundary(&content_type).ok(), Some(boundary), "{}", content_type);
        }
    }
}
