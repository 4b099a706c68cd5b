//! A form beside multer: what both take has one model.
#![no_main]
use futures::{executor::block_on, stream};
use inference_plugin::scan::{self, Model, Wanted};
use inference_plugin::shape::Shape;

libfuzzer_sys::fuzz_target!(|body: &[u8]| {
    let shape = Shape::of(b"POST", b"/v1/audio/transcriptions").expect("it is in the table");
    let Ok(ours) = scan::scan(body, shape, Some("b"), Wanted::All) else { return };
    let mut form = multer::Multipart::new(stream::iter([Ok::<_, std::io::Error>(body.to_vec())]), "b");
    let mut theirs = None;
    while let Ok(Some(field)) = block_on(form.next_field()) {
        let is_model = field.name() == Some("model") && field.file_name().is_none();
        let Ok(text) = block_on(field.text()) else { return };
        theirs = if is_model { Some(text) } else { theirs };
    }
    if let Some(Model::Name { name, .. }) = ours.model {
        assert_eq!(Some(name.into_owned()), theirs);
    }
});
