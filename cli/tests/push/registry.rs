//! The CNCF's registry in a process of its own, and a proxy before it that breaks lines.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use inferencectl::client::{self, Answer};
use inferencectl::demo::{Scratch, scratch};
use serde_json::Value;

use super::MANIFEST;

/// How long a registry may take to start.
const PATIENCE: Duration = Duration::from_secs(30);
/// The password is `pa55:word`.
const HTPASSWD: &str = "ann:$2b$05$abcdefghijklmnopqrstuuyJFE65A46/2eXN/SomAkqtHDi1XDOkC\n";

/// A registry in a process of its own. Dropping it stops it.
pub(crate) struct Registry {
    pub(crate) child: Child,
    pub(crate) folder: Scratch,
    pub(crate) address: SocketAddr,
}

impl Registry {
    pub(crate) fn start() -> Registry {
        Registry::with("")
    }

    pub(crate) fn with_login() -> Registry {
        Registry::with("auth: {htpasswd: {realm: test, path: HTPASSWD}}\n")
    }

    pub(crate) fn with(auth: &str) -> Registry {
        let folder = scratch("registry").expect("a folder");
        let htpasswd = folder.path().join("htpasswd");
        std::fs::write(&htpasswd, HTPASSWD).expect("a file");
        let config = folder.path().join("config.yml");
        let storage = folder.path().join("storage");
        let text = format!(
            "version: 0.1\nlog: {{level: info}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n\
             http: {{addr: '127.0.0.1:0'}}\n{}",
            storage.display(),
            auth.replace("HTPASSWD", &htpasswd.display().to_string())
        );
        std::fs::write(&config, text).expect("a file");
        let log = std::fs::File::create(folder.path().join("log")).expect("a file");
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&config)
            .env("OTEL_TRACES_EXPORTER", "none")
            .stdout(log.try_clone().expect("the file again"))
            .stderr(log)
            .spawn()
            .expect("docker-registry cannot be run: install Debian's package docker-registry");
        let mut registry = Registry { child, folder, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        let started = Instant::now();
        while registry.address.port() == 0 {
            let log = registry.log();
            assert!(started.elapsed() < PATIENCE, "the registry does not start:\n{log}");
            assert!(registry.child.try_wait().expect("a child").is_none(), "the registry ended:\n{log}");
            if let Some((_, rest)) = log.split_once("listening on ") {
                let address: String = rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
                registry.address = address.parse().unwrap_or(registry.address);
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        registry
    }

    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.path().join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// How many requests of a method it has answered.
    pub(crate) fn requests(&self, method: &str) -> usize {
        self.log().lines().filter(|line| line.contains(&format!("] \"{method} /v2/"))).count()
    }

    pub(crate) fn get(&self, path: &str, accept: &str) -> Answer {
        get(self.address, path, accept)
    }

    pub(crate) fn manifest(&self, repository: &str, reference: &str) -> Value {
        let answer = self.get(&format!("/v2/{repository}/manifests/{reference}"), MANIFEST);
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(MANIFEST)), "{}", answer.text());
        answer.json().expect("a manifest")
    }

    pub(crate) fn blob(&self, repository: &str, descriptor: &Value) -> Bytes {
        let digest = descriptor["digest"].as_str().expect("a digest");
        let answer = self.get(&format!("/v2/{repository}/blobs/{digest}"), "*/*");
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert_eq!(Some(answer.body.len() as u64), descriptor["size"].as_u64());
        answer.body
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) fn get(address: SocketAddr, path: &str, accept: &str) -> Answer {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let request = Request::get(path)
        .header("host", address.to_string())
        .header("accept", accept)
        .body(Full::new(Bytes::new()))
        .expect("a request");
    runtime.block_on(client::send(address, request)).expect("an answer")
}

/// What the proxy does with a request.
pub(crate) enum Fate {
    Forward,
    /// The line breaks before the request arrives.
    Lose,
    /// The line breaks after so many bytes of its body.
    Cut(usize),
    /// The line breaks before the answer arrives.
    LoseAnswer,
    /// The registry never sees it.
    Answer(String),
}

/// Puts a proxy before a registry, which is asked for the fate of each request by its head.
pub(crate) fn proxy(upstream: SocketAddr, fate: impl Fn(&str) -> Fate + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            // A broken line is what these tests are about.
            let _ = relay(client, upstream, &fate);
        }
    });
    address
}

/// One request; then both connections are closed.
pub(crate) fn relay(mut client: TcpStream, upstream: SocketAddr, fate: &impl Fn(&str) -> Fate) -> std::io::Result<()> {
    let mut reader = BufReader::new(client.try_clone()?);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head)? == 0 {
            return Ok(());
        }
    }
    let lower = head.to_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap_or("0");
    let mut body = vec![0; length.trim().parse().unwrap_or(0)];
    reader.read_exact(&mut body)?;
    let fate = fate(&head);
    let mut server = TcpStream::connect(upstream)?;
    let head = head.replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n");
    match fate {
        Fate::Lose => {}
        Fate::Answer(answer) => client.write_all(answer.as_bytes())?,
        Fate::Cut(bytes) => {
            server.write_all(head.as_bytes())?;
            server.write_all(&body[..bytes])?;
        }
        Fate::Forward | Fate::LoseAnswer => {
            server.write_all(head.as_bytes())?;
            server.write_all(&body)?;
            let mut answer = Vec::new();
            server.read_to_end(&mut answer)?;
            if matches!(fate, Fate::Forward) {
                client.write_all(&answer)?;
            }
        }
    }
    Ok(())
}

/// A fate for the nth request whose head has a text; all others are forwarded.
pub(crate) fn once(what: &'static str, nth: usize, fate: Fate) -> impl Fn(&str) -> Fate {
    let state = Mutex::new((0, Some(fate)));
    move |head| {
        let mut state = state.lock().expect("no panic");
        if !head.contains(what) {
            return Fate::Forward;
        }
        state.0 += 1;
        if state.0 == nth { state.1.take().unwrap_or(Fate::Forward) } else { Fate::Forward }
    }
}
