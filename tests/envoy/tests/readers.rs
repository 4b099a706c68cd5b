//! What the plugin reads beside what Python's servers read of the same bytes: forms by Starlette, JSON by `json`, paths by uvicorn.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::Context;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use envoy_tests::root;
use inference_plugin::hash;
use inference_plugin::scan::{self, Format, Model, Wanted};
use inference_plugin::shape::{Call, Shape};
use serde_json::{Value, json};

/// Python's readers, in a process of their own.
struct Readers {
    child: Child,
    questions: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Readers {
    fn start() -> anyhow::Result<Readers> {
        let python = root().join(".tools/venv/bin/python");
        let mut child = Command::new(&python)
            .arg(root().join("tests/envoy/python/readers.py"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{}: ./build.sh test fetches it", python.display()))?;
        let questions = child.stdin.take().context("its input")?;
        let answers = BufReader::new(child.stdout.take().context("its output")?);
        Ok(Readers { child, questions, answers })
    }

    fn ask(&mut self, question: &Value) -> anyhow::Result<Value> {
        writeln!(self.questions, "{question}")?;
        let mut line = String::new();
        self.answers.read_line(&mut line)?;
        serde_json::from_str(&line).with_context(|| format!("its answer {line:?}: ./build.sh test fetches Starlette"))
    }

    /// The model as Python reads it: `None` where it takes nothing.
    fn model(&mut self, content_type: Option<&str>, body: &[u8]) -> anyhow::Result<Option<Value>> {
        let mut question = json!({"body": BASE64.encode(body)});
        if let Some(content_type) = content_type {
            question["type"] = content_type.into();
        }
        let answer = self.ask(&question)?;
        Ok(answer.get("error").is_none().then(|| answer["model"].clone()))
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The model as the plugin reads it: `None` where it refuses.
fn ours(path: &str, content_type: &str, body: &[u8]) -> Option<Value> {
    let shape = Shape::of(b"POST", path.as_bytes())?;
    let boundary = match Format::of(content_type.as_bytes()) {
        Format::Json => None,
        Format::Form(boundary) => Some(boundary),
        Format::Unclear(_) => return None,
    };
    match scan::scan(body, shape, boundary.as_deref(), Wanted::All).ok()?.model {
        Some(Model::Name { name, .. }) => Some(name.into_owned().into()),
        // Refused where it is required.
        Some(Model::NotAName) => None,
        None => Some(Value::Null),
    }
}

/// Texts of random pieces, always the same.
fn texts<'p>(pieces: &'p [&'p str], count: u64, most: u64) -> impl Iterator<Item = String> + 'p {
    (0..count).map(move |seed| {
        let mut state = hash::mix(seed + 1);
        let mut next = |below: u64| {
            state = hash::mix(state.wrapping_add(0x9e37_79b9_7f4a_7c15));
            state % below
        };
        let length = next(most);
        (0..length).map(|_| pieces[next(pieces.len() as u64) as usize]).collect()
    })
}

#[test]
fn forms_are_read_as_starlette_reads_them() -> anyhow::Result<()> {
    let mut readers = Readers::start()?;
    let part = |head: &str, value: &str| format!("--x\r\n{head}\r\n\r\n{value}\r\n");
    let field = "Content-Disposition: form-data; name=\"model\"";
    let base = part(field, "base");
    // Spellings by which another model was reached than was routed by, and what clients write.
    let spellings = [
        base.clone(),
        base.clone() + &part("Content-Disposition: form-data; name=\"y\"; name=\"model\"", "secret"),
        base.clone()
            + &part(
                "Content-Disposition: form-data; name=\"y\"\r\nContent-Disposition: form-data; name=\"model\"",
                "secret",
            ),
        base.clone() + &part(field, "secret"),
        base.clone() + &part("Content-Disposition: attachment; name=\"model\"", "secret"),
        base.clone() + &part("Content-Disposition: form-data; name=\"model\"; filename*=utf-8''a", "secret"),
        base.clone() + &part("Content-Disposition: form-data; name*=utf-8''y; name=\"model\"", "secret"),
        base.clone() + &part("Content-Disposition: form-data; name=y\\\"; name=model", "secret"),
        base.clone() + &part("Content-Disposition: form-data; x=\"\\\"; name=\"model\"; y=\"\\\"\"", "secret"),
        base.clone() + &part("Content-Disposition: form-data;; name=\"model\"", "secret"),
        base.clone() + "--x \r\nContent-Disposition: form-data; name=\"model\"\r\n\r\nsecret\r\n",
        base.clone()
            + "--x\r\nContent-Disposition: form-data; name=\"y\"\r\n\r\n--x\r\n"
            + field
            + "\r\n\r\nsecret\r\n",
        "\r\n".to_owned() + &base,
        "\n".to_owned() + &base,
        part(
            "Content-Disposition: form-data; name=\"file\"; filename=\"a;name=model\"\r\nContent-Type: audio/wav",
            "RIFF",
        ) + &base,
    ];
    let mut taken = 0;
    let pieces = [
        "--x\r\n",
        "--x\r\n",
        "\r\n--x\r\n",
        "\r\n--x\r\n",
        "\r\n--x--\r\n",
        "\r\n--x--",
        "--x--",
        "\n--x\r\n",
        "\r\n--x \r\n",
        "\r\n--xx\r\n",
        "Content-Disposition: form-data; name=\"model\"\r\n\r\n",
        "Content-Disposition: form-data; name=\"model\"\r\n\r\n",
        "Content-Disposition: form-data; name=\"y\"; name=\"model\"\r\n\r\n",
        "Content-Disposition: form-data; name=\"model\"; name=\"y\"\r\n\r\n",
        "Content-Disposition: form-data; name=\"y\"\r\n",
        "Content-Disposition: form-data; name=\"model\"\r\n",
        "content-disposition:form-data;name=model\r\n\r\n",
        "Content-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n",
        "Content-Disposition: form-data; name=\"a\\\"; name=\\\"model\"\r\n\r\n",
        "Content-Type: text/plain; charset=utf-8\r\n",
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
    ];
    let made: Vec<String> = texts(&pieces, 4_000, 12).collect();
    let ended = spellings.iter().map(|form| format!("{form}--x--\r\n"));
    for form in ended.chain(spellings.iter().cloned()).chain(made) {
        let content_type = "multipart/form-data; boundary=x";
        let Some(ours) = ours("/v1/audio/transcriptions", content_type, form.as_bytes()) else { continue };
        taken += 1;
        assert_eq!(readers.model(Some(content_type), form.as_bytes())?, Some(ours), "{form:?}");
    }
    assert!(taken > 10, "{taken} are taken");
    for content_type in [
        "multipart/form-data; boundary=x",
        "Multipart/Form-Data; charset=utf-8; boundary=\"x\"",
        "multipart/form-data;boundary=x",
    ] {
        let form = base.clone() + "--x--\r\n";
        assert_eq!(
            ours("/v1/audio/transcriptions", content_type, form.as_bytes()),
            Some("base".into()),
            "{content_type}"
        );
        assert_eq!(readers.model(Some(content_type), form.as_bytes())?, Some("base".into()), "{content_type}");
    }
    Ok(())
}

#[test]
fn json_is_read_as_python_reads_it() -> anyhow::Result<()> {
    let mut readers = Readers::start()?;
    let pieces = [
        "{",
        "}",
        "{\"model\":",
        "\"model\":",
        "\"mod\\u0065l\":",
        "\"base\"",
        "\"secret\"",
        "\"s\\u0065cret\"",
        ",",
        ":",
        "[",
        "]",
        "1",
        "NaN",
        "-Infinity",
        "null",
        " ",
        "\n",
        "\u{feff}",
        "{\"a\":[1,2, 3,{}]}",
        "\"\\ud800\"",
        "\"\\\\\"",
        "\"\\\"\"",
        "true",
        "\"x\":",
    ];
    let plain = [
        "\u{feff}{\"model\":\"base\"}",
        "{\"model\":\"secret\",\"model\":\"base\"}",
        "{\"x\":[NaN,-Infinity],\"model\":\"base\"}",
    ];
    for body in plain {
        assert_eq!(ours("/v1/completions", "application/json", body.as_bytes()), Some("base".into()), "{body}");
    }
    let mut both = 0;
    for body in plain.map(str::to_owned).into_iter().chain(texts(&pieces, 6_000, 10)) {
        let (ours, theirs) =
            (ours("/v1/completions", "application/json", body.as_bytes()), readers.model(None, body.as_bytes())?);
        // What only one takes reaches no other model: the plugin has refused it, or the engine will.
        if let (Some(ours), Some(theirs)) = (ours, theirs) {
            both += 1;
            assert_eq!(ours, theirs, "{body:?}");
        }
    }
    assert!(both > 10, "{both} are taken by both");
    Ok(())
}

#[test]
fn paths_are_read_as_uvicorn_reads_them() -> anyhow::Result<()> {
    let mut readers = Readers::start()?;
    let pieces = [
        "/v1",
        "/chat",
        "/completions",
        "/ch%61t",
        "%2F",
        "chat",
        "completions",
        "/completion%73",
        "/",
        "/embeddings",
        "%25",
        "%2",
        "%zz",
        "é",
        "%C3%A9",
        "?",
        "#",
        ";",
        "%3f",
        "/..",
        "/.",
        "%00",
        "/V1",
        "+",
        "%2e",
    ];
    let mut refused = 0;
    for target in texts(&pieces, 8_000, 8) {
        if !target.starts_with('/') {
            continue;
        }
        let path = target.split(['?', '#']).next().unwrap_or_default();
        let answer = readers.ask(&json!({"path": path}))?;
        let decoded = answer["path"].as_str().context("a path")?;
        let leads_to = |suffix: &str| decoded.strip_suffix('/').unwrap_or(decoded).ends_with(suffix);
        match Call::read(b"POST", target.as_bytes()) {
            Call::One { shape, .. } => assert!(leads_to(shape.suffix), "{target} is {decoded}"),
            Call::Unclear(_) => refused += 1,
            Call::Other => {
                for suffix in ["/v1/completions", "/chat/completions", "/v1/embeddings", "/embeddings"] {
                    assert!(!leads_to(suffix), "{target} is {decoded}");
                }
            }
        }
    }
    assert!(refused > 10, "{refused} are refused");
    Ok(())
}
