//! Forms as clients write them, and everything that readers see differently.

use super::*;
use crate::testing::test;

const MODEL: &str = "Content-Disposition: form-data; name=\"model\"";

fn form(parts: &[(&str, &str)]) -> Vec<u8> {
    let parts: Vec<String> = parts.iter().map(|(head, value)| format!("--xyz\r\n{head}\r\n\r\n{value}\r\n")).collect();
    format!("{}--xyz--\r\n", parts.concat()).into_bytes()
}

fn read(body: &[u8]) -> Result<Option<(String, Range<usize>)>, ScanErrorKind> {
    match scan(body, "xyz", Wanted::All).map_err(|error| error.kind)?.model {
        Some(Model::Name { name, span }) => Ok(Some((name.into_owned(), span))),
        Some(Model::NotAName) => Err(ScanErrorKind::Unexpected),
        None => Ok(None),
    }
}

fn fault(body: &[u8]) -> FormFault {
    match read(body) {
        Err(ScanErrorKind::Form(fault)) => fault,
        other => panic!("{:?}: {other:?}", String::from_utf8_lossy(body)),
    }
}

#[test]
fn a_field_among_files_is_found() {
    let file = "Content-Disposition: form-data; name=\"file\"; filename=\"a; name=model.wav\"; filename*=UTF-8''a.wav\r\nContent-Type: audio/wav";
    let audio = "RIFF\r\n--xy\r\n\r\n{\"model\":\"no\"}";
    let body = form(&[(file, audio), ("content-disposition:form-data;name=model", "whisper")]);
    let (name, span) = read(&body).unwrap().unwrap();
    assert_eq!((name.as_str(), &body[span]), ("whisper", &b"whisper"[..]));
    for head in [
        "Content-Disposition: FORM-DATA ; NAME=\"model\"\r\nContent-Type: text/plain; charset=UTF-8",
        "Content-Disposition: form-data; name=\"model\"\r\nContent-Type: text/plain; charset=ISO-8859-1\r\nContent-Transfer-Encoding: 8bit",
        "Content-Type: application/json\r\nContent-Length: 7\r\nContent-Disposition: form-data; name=\"model\"",
    ] {
        assert_eq!(read(&form(&[(head, "whisper")])).unwrap().unwrap().0, "whisper", "{head}");
    }
    // A line end in front, and some behind.
    let body = [b"\r\n", &form(&[(MODEL, "é")])[..], b"\r\n\r\n"].concat();
    assert_eq!(read(&body).unwrap().unwrap().0, "é");
}

#[test]
fn heads_that_readers_see_differently_are_refused() {
    for (head, wanted) in [
        ("Content-Disposition: form-data; name=\"y\"; name=\"model\"", FormFault::Disposition),
        ("Content-Disposition: form-data; name=\"model\"; NAME=y", FormFault::Disposition),
        (
            "Content-Disposition: form-data; name=\"y\"\r\nContent-Disposition: form-data; name=\"model\"",
            FormFault::Disposition,
        ),
        ("Content-Disposition: form-data; name*=utf-8''model", FormFault::Disposition),
        ("Content-Disposition: form-data; name=\"model\"; name*=utf-8''y", FormFault::Disposition),
        ("Content-Disposition: form-data; name=\"model\"; filename*=utf-8''y", FormFault::Disposition),
        ("Content-Disposition: form-data; name=\"y\\\"; name=\\\"model\"", FormFault::Disposition),
        ("Content-Disposition: form-data; name=\"file\"; filename=\"a\\\"; name=\"model\"", FormFault::Disposition),
        ("Content-Disposition: form-data; name=\"model", FormFault::Disposition),
        ("Content-Disposition: form-data; name=my model", FormFault::Disposition),
        ("Content-Disposition: form-data; name = model", FormFault::Disposition),
        ("Content-Disposition: form-data; name=", FormFault::Disposition),
        ("Content-Disposition: form-data; name=model;", FormFault::Disposition),
        ("Content-Disposition: form-data", FormFault::Disposition),
        ("Content-Disposition: attachment; name=\"model\"", FormFault::Disposition),
        ("Content-Disposition: \"form-data\"; name=\"model\"", FormFault::Disposition),
        ("Content-Type: text/plain", FormFault::Disposition),
        ("Content-Disposition: form-data; name=\"mod%65l\"", FormFault::Name),
        ("Content-Disposition: form-data; name=\" model\"", FormFault::Name),
        ("Content-Disposition: form-data; name=\"x; name=model\"", FormFault::Name),
        ("Content-Disposition: form-data; name=\"mod\\el\"", FormFault::Name),
        ("Content-Disposition: form-data; name=\"_charset_\"", FormFault::Name),
        ("Content-Disposition: form-data; name=\"model\"; filename=\"a\"", FormFault::Model),
        ("Content-Disposition: form-data;\r\n name=\"model\"", FormFault::Head),
        ("Content-Disposition : form-data; name=\"model\"", FormFault::Head),
        ("Content-Disposition: form-data; name=\"y\"\nContent-Disposition: form-data; name=\"model\"", FormFault::Head),
        ("Content-Disposition: form-data; name=\"y\"\rx: y", FormFault::Head),
        ("Content-Disposition: form-data; name=\"mo\0del\"", FormFault::Head),
        (": x\r\nContent-Disposition: form-data; name=\"model\"", FormFault::Head),
        ("garbage\r\nContent-Disposition: form-data; name=\"model\"", FormFault::Head),
        ("Content-Disposition: form-data; name=\"model\"\r\nContent-Transfer-Encoding: base64", FormFault::Encoding),
        (
            "Content-Disposition: form-data; name=\"model\"\r\nContent-Type: text/plain; charset=utf-16",
            FormFault::Encoding,
        ),
        (
            "Content-Disposition: form-data; name=\"model\"\r\nContent-Type: multipart/mixed; boundary=z",
            FormFault::Encoding,
        ),
        (
            "Content-Disposition: form-data; name=\"model\"\r\nContent-Type: a/b\r\nContent-Type: c/d",
            FormFault::Encoding,
        ),
    ] {
        assert_eq!(fault(&form(&[(head, "whisper")])), wanted, "{head}");
    }
    let many = ["X: y"; 8].join("\r\n");
    assert_eq!(fault(&form(&[(&format!("{many}\r\n{MODEL}"), "x")])), FormFault::Head);
    let latin = format!("{MODEL}\r\nContent-Type: text/plain; charset=iso-8859-1");
    assert_eq!(fault(&form(&[(&latin, "é")])), FormFault::Encoding);
    assert_eq!(fault(b"--xyz\r\n\r\n\r\nx\r\n--xyz--"), FormFault::Head, "no head at all");
}

#[test]
fn bodies_that_readers_see_differently_are_refused() {
    let plain = |value: &str| String::from_utf8(form(&[(MODEL, value)])).unwrap();
    for (body, wanted) in [
        (format!("preamble\r\n{}", plain("a")), FormFault::Start),
        (format!("\n{}", plain("a")), FormFault::Start),
        (plain("a").replace("--xyz\r\n", "--xyz \r\n"), FormFault::Boundary),
        (plain("a").replace("\r\n", "\n"), FormFault::Boundary),
        (plain("a").replace("a\r\n--xyz--", "a\n--xyz--"), FormFault::Boundary),
        (plain("a\n--xyz\r\nx"), FormFault::Boundary),
        (plain("a\r\n--xyzzy"), FormFault::Boundary),
        (plain("a--xyz--"), FormFault::Boundary),
        (plain("").replace("\r\n\r\n\r\n", "\r\n\r\n"), FormFault::Head),
        (plain("a") + "epilogue", FormFault::End),
        (plain("a") + &plain("b"), FormFault::End),
        ("--other\r\n".to_owned(), FormFault::Start),
        (String::new(), FormFault::Start),
    ] {
        assert_eq!(fault(body.as_bytes()), wanted, "{body:?}");
    }
    assert_eq!(fault(&form(&[(MODEL, "a"), (MODEL, "b")])), FormFault::Model);
    let many = vec![("Content-Disposition: form-data; name=\"x\"", "1"); 300];
    assert_eq!(read(&form(&many)), Err(ScanErrorKind::Form(FormFault::Parts)), "whatever their names are");
}

#[test]
fn content_types_are_read_as_they_are_written() {
    for (text, wanted) in [
        ("multipart/form-data; boundary=xyz", "xyz"),
        ("Multipart/Form-Data;charset=utf-8; Boundary=\"a=b:c/d?\"", "a=b:c/d?"),
        (
            "multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            "----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
        ("multipart/form-data; boundary====123==", "===123=="),
    ] {
        assert_eq!(Format::of(text.as_bytes()), Format::Form(wanted.to_owned()), "{text}");
    }
    for json in ["application/json", "", "text/plain; charset=utf-8", "application/json; x=form-data"] {
        assert_eq!(Format::of(json.as_bytes()), Format::Json, "{json}");
    }
    for unclear in [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=a; Boundary=b",
        "multipart/form-data; boundary=a, multipart/form-data; boundary=b",
        "application/json, multipart/form-data; boundary=b",
        "multipart/form-data; boundary=\"a\\\"b\"",
        "multipart/form-data; boundary=\"a b\"",
        "multipart/form-data; boundary=a b",
        "multipart/form-data; boundary=a; charset=utf-7",
        "multipart/form-data; boundary*=utf-8''a",
        "multipart/form-data; boundary=a; boundary*0=b",
        "multipart/form-data boundary=a",
        "multipart/mixed; boundary=x",
        "multipart/form-data; boundary=xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
    ] {
        assert_eq!(Format::of(unclear.as_bytes()), Format::Unclear(FormFault::ContentType), "{unclear}");
    }
    assert_eq!(Format::of(b"application/x-www-form-urlencoded"), Format::Unclear(FormFault::UrlEncoded));
}

#[test]
fn damage_is_said_to_be_some() {
    let whole = form(&[(MODEL, "whisper")]);
    for end in 0..whole.len() - 4 {
        assert!(read(&whole[..end]).is_err(), "{end}");
    }
    assert_eq!(
        read(&[b"--xyz\r\n", MODEL.as_bytes(), b"\r\n\r\n\xff\r\n--xyz--"].concat()),
        Err(ScanErrorKind::Unexpected)
    );
}
