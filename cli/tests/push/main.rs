//! `inferencectl push` against the CNCF's registry, over lines that break.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "a test may panic")]

mod modules;
mod registry;

use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::Full;
use hyper::Request;
use inferencectl::client;
use inferencectl::demo::scratch;
use inferencectl::envoy::Envoy;
use serde_json::{Value, json};

use modules::{Modules, told};
use registry::{Fate, Registry, once, proxy};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

#[test]
fn both_variants_come_back_as_they_were() {
    let (registry, modules) = (Registry::start(), Modules::new());
    let more = ["--variant", "both", "--annotation", "team=a=b", "--revision", "c0ffee"];
    let pushed = modules.push(&format!("{}/team/plugin:v1", registry.address), &more).good();
    assert_eq!(pushed.digests().len(), 4);
    for (name, file) in [("inference", "inference.wasm"), ("metrics-poller", "poller.wasm")] {
        let repository = format!("team/plugin/{name}");
        let module = modules.bytes(file);

        let manifest = registry.manifest(&repository, "v1");
        let [layer, config] = manifest["layers"].as_array().expect("layers").as_slice() else { panic!("{manifest}") };
        assert_eq!(manifest["mediaType"], MANIFEST);
        assert_eq!(layer["mediaType"], "application/vnd.module.wasm.content.layer.v1+wasm");
        assert_eq!(registry.blob(&repository, layer), module);
        // Istio and Envoy Gateway count layers; the second is the configuration once more.
        assert_eq!(config, &manifest["config"]);
        assert_eq!(config["mediaType"], "application/vnd.module.wasm.config.v1+json");
        assert_eq!(registry.blob(&repository, config), "{}");
        let annotations = &manifest["annotations"];
        assert_eq!(annotations["org.opencontainers.image.title"], name);
        assert_eq!(annotations["org.opencontainers.image.version"], env!("CARGO_PKG_VERSION"));
        assert_eq!(annotations["org.opencontainers.image.licenses"], "Apache-2.0");
        assert_eq!(annotations["org.opencontainers.image.revision"], "c0ffee");
        assert_eq!(annotations["team"], "a=b");
        assert_eq!(annotations["org.opencontainers.image.created"], Value::Null);
        let sha256 = layer["digest"].as_str().expect("a digest").replace("sha256:", "");
        let uri = format!("uri: http://{}/v2/{repository}/blobs/sha256:{sha256}\n", registry.address);
        assert!(pushed.out.contains(&uri) && pushed.out.contains(&format!("sha256: \"{sha256}\"\n")), "{}", pushed.out);

        let manifest = registry.manifest(&repository, "v1-image");
        let [layer] = manifest["layers"].as_array().expect("layers").as_slice() else { panic!("{manifest}") };
        assert_eq!(layer["mediaType"], "application/vnd.oci.image.layer.v1.tar+gzip");
        let compressed = registry.blob(&repository, layer);
        // After magic, method and flags come four bytes of time.
        assert_eq!(compressed[3..8], [0; 5]);
        let archive = scratch("archive").expect("a folder");
        std::fs::write(archive.path().join("layer.tar.gz"), &compressed).expect("a file");
        let tar = |arguments: &[&str]| {
            let output = Command::new("tar").args(arguments).current_dir(archive.path()).env("TZ", "UTC").output();
            output.expect("tar").stdout
        };
        let listed = String::from_utf8_lossy(&tar(&["--numeric-owner", "-tvzf", "layer.tar.gz"])).into_owned();
        let words: Vec<&str> = listed.split_whitespace().collect();
        assert_eq!(words, ["-rw-r--r--", "0/0", "1000", "1970-01-01", "00:00", "plugin.wasm"]);
        assert_eq!(tar(&["-xOzf", "layer.tar.gz", "plugin.wasm"]), module);
        assert_eq!(manifest["config"]["mediaType"], "application/vnd.oci.image.config.v1+json");
        let config: Value =
            serde_json::from_slice(&registry.blob(&repository, &manifest["config"])).expect("a configuration");
        let gunzip =
            Command::new("sh").args(["-c", "gzip -dc layer.tar.gz | sha256sum"]).current_dir(archive.path()).output();
        let sum = String::from_utf8_lossy(&gunzip.expect("gzip").stdout).chars().take(64).collect::<String>();
        let rootfs = json!({"type": "layers", "diff_ids": [format!("sha256:{sum}")]});
        assert_eq!(config, json!({"architecture": "wasm", "os": "wasip1", "rootfs": rootfs}));
    }
    for digest in pushed.digests() {
        assert!(pushed.out.contains(&format!("@{digest}\n")), "{}", pushed.out);
    }
}

#[test]
fn a_second_push_sends_nothing() {
    let (registry, modules) = (Registry::start(), Modules::new());
    let reference = format!("{}/plugin", registry.address);
    let first = modules.push(&reference, &["--variant", "both"]).good();
    let uploads = || ["POST", "PATCH", "PUT"].map(|method| registry.requests(method));
    let before = uploads();
    assert!(before[0] > 0 && before[2] > before[0], "{}", registry.log());
    let second = modules.push(&reference, &["--variant", "both"]).good();
    assert_eq!(uploads(), before, "{}", second.err);
    assert_eq!(second.out, first.out);
    assert!(second.err.contains("is there already"), "{}", second.err);
    registry.manifest("plugin/inference", env!("CARGO_PKG_VERSION"));

    let told_only = told(&mut modules.command("unknown.invalid/plugin", &["--variant", "both", "--dry-run"])).good();
    assert_eq!(told_only.digests(), first.digests());
    let dated = |epoch: &str| {
        let mut command = modules.command(&reference, &["--plain-http"]);
        told(command.env("SOURCE_DATE_EPOCH", epoch))
    };
    let dated_once = dated("86400").good();
    assert_eq!(dated("86400").good().digests(), dated_once.digests());
    assert_ne!(dated_once.digests()[0], first.digests()[0]);
    let manifest = registry.manifest("plugin/inference", env!("CARGO_PKG_VERSION"));
    assert_eq!(manifest["annotations"]["org.opencontainers.image.created"], "1970-01-02T00:00:00Z");
    dated("yesterday").bad("SOURCE_DATE_EPOCH is \"yesterday\"");
}

#[test]
fn the_bill_of_materials_refers_to_the_module() {
    let (registry, modules) = (Registry::start(), Modules::new());
    let reference = format!("{}/plugin:v1", registry.address);
    let pushed = modules.push(&reference, &[]).good();
    for ((name, crate_of_its_own), digest) in
        [("inference", "inference-filter"), ("metrics-poller", "metrics-poller")].into_iter().zip(pushed.digests())
    {
        let repository = format!("plugin/{name}");
        // This registry has no referrers API, so the list is under the fallback tag.
        let answer = registry.get(&format!("/v2/{repository}/manifests/{}", digest.replace(':', "-")), INDEX);
        assert_eq!(answer.header("content-type"), Some(INDEX), "{}", answer.text());
        let index = answer.json().expect("an index");
        let [entry] = index["manifests"].as_array().expect("manifests").as_slice() else { panic!("{index}") };
        assert_eq!(entry["artifactType"], "application/vnd.cyclonedx+json");
        let manifest = registry.manifest(&repository, entry["digest"].as_str().expect("a digest"));
        assert_eq!(manifest["subject"]["digest"], digest.as_str());
        assert_eq!(manifest["subject"]["mediaType"], MANIFEST);
        assert_eq!(manifest["artifactType"], "application/vnd.cyclonedx+json");
        assert_eq!(manifest["layers"][0]["mediaType"], "application/vnd.cyclonedx+json");
        let document: Value =
            serde_json::from_slice(&registry.blob(&repository, &manifest["layers"][0])).expect("a document");
        assert_eq!((&document["bomFormat"], &document["specVersion"]), (&json!("CycloneDX"), &json!("1.5")));
        let components = document["components"].as_array().expect("components");
        let find = |name: &str| components.iter().find(|component| component["name"] == name);
        let proxy_wasm = find("proxy-wasm").expect("proxy-wasm");
        let version = proxy_wasm["version"].as_str().expect("a version");
        assert_eq!(proxy_wasm["purl"], format!("pkg:cargo/proxy-wasm@{version}"));
        assert!(find(crate_of_its_own).is_some() && find("wasmtime").is_none(), "{document}");
    }
}

#[test]
fn a_list_of_referrers_keeps_what_others_wrote() {
    let (registry, modules) = (Registry::start(), Modules::new());
    let reference = format!("{}/plugin:v1", registry.address);
    let digest = modules.push(&reference, &[]).good().digests().remove(0);
    let path = format!("/v2/plugin/inference/manifests/{}", digest.replace(':', "-"));
    let mut index = registry.get(&path, INDEX).json().expect("an index");
    let module = registry.get(&format!("/v2/plugin/inference/manifests/{digest}"), MANIFEST);
    index["manifests"] = json!([
        {"mediaType": MANIFEST, "digest": digest, "size": module.body.len(), "artifactType": "somebody/else's", "x": 1}
    ]);
    let request = Request::put(&path).header("host", registry.address.to_string()).header("content-type", INDEX);
    let request = request.body(Full::new(Bytes::from(index.to_string()))).expect("a request");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    assert_eq!(runtime.block_on(client::send(registry.address, request)).expect("an answer").status, 201);
    modules.push(&reference, &[]).good();
    let entries = registry.get(&path, INDEX).json().expect("an index")["manifests"].clone();
    assert_eq!(entries.as_array().map(Vec::len), Some(2), "{entries}");
    assert_eq!(entries[0], index["manifests"][0]);
}

#[test]
fn a_registry_with_the_referrers_api_gets_no_fallback_tag() {
    let (registry, modules) = (Registry::start(), Modules::new());
    let planned = modules.push("a.example/plugin:v1", &["--dry-run"]).good();
    let documents = planned.out.lines().filter_map(|line| line.strip_prefix("  sbom:   "));
    let entries: Vec<Value> =
        documents.map(|digest| json!({"mediaType": MANIFEST, "digest": digest, "size": 1})).collect();
    let index = json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}).to_string();
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", index.len());
    let with_api = proxy(registry.address, move |request| {
        if request.contains("/referrers/sha256:") { Fate::Answer(format!("{head}{index}")) } else { Fate::Forward }
    });
    let pushed = modules.push(&format!("{with_api}/plugin:v1"), &[]).good();
    assert_eq!(pushed.digests(), planned.digests());
    let fallback = pushed.digests()[0].replace(':', "-");
    assert_eq!(registry.get(&format!("/v2/plugin/inference/manifests/{fallback}"), INDEX).status, 404);
}

#[test]
fn a_registry_with_a_login_takes_dockers() {
    let (registry, modules) = (Registry::with_login(), Modules::new());
    let host = registry.address.to_string();
    let reference = format!("{host}/plugin:v1");
    // The base64 of ann:pa55:word, and of ann:guessed.
    let (right, wrong) = ("YW5uOnBhNTU6d29yZA==", "YW5uOmd1ZXNzZWQ=");

    modules.push(&reference, &[]).bad(&format!("the registry {host} wants a login (no login, since there is no "));
    modules.docker_config(&json!({"auths": {&host: {"auth": wrong}}}));
    let refused = modules.push(&reference, &[]).bad(&format!("the registry {host} refuses the login of \"ann\" in "));
    assert!(!refused.err.contains("guessed") && !refused.err.contains(wrong), "{}", refused.err);
    modules.docker_config(&json!({"auths": {&host: {"auth": right}}}));
    modules.push(&reference, &[]).good();

    modules.docker_config(&json!({"credHelpers": {&host: "of-a-test"}, "auths": {&host: {"auth": wrong}}}));
    modules.push(&reference, &[]).bad("docker-credential-of-a-test, which cannot be run");
    modules.program(
        "docker-credential-of-a-test",
        &format!(
            r#"read server; [ "$1 $server" = "get {host}" ] || exit 1
            echo '{{"ServerURL": "", "Username": "ann", "Secret": "pa55:word"}}'"#
        ),
    );
    modules.push(&reference, &[]).good();
    modules.program("docker-credential-of-a-test", "echo the keychain is locked; exit 1");
    modules.push(&reference, &[]).bad("the keychain is locked");
    // One that knows nothing leaves it to the file.
    modules.program("docker-credential-of-a-test", "echo credentials not found in native keychain; exit 1");
    modules.docker_config(&json!({"credsStore": "of-a-test", "auths": {&host: {"auth": right}}}));
    modules.push(&reference, &[]).good();
    std::fs::write(modules.path("config.json"), "{").expect("a file");
    modules.push(&reference, &[]).bad("config.json is not JSON");
}

#[test]
fn a_registry_that_hands_out_tokens_gets_them() {
    let (registry, modules) = (Registry::start(), Modules::of(10_000));
    let address = Mutex::new(None);
    let address: &'static Mutex<Option<SocketAddr>> = Box::leak(Box::new(address));
    let gate = proxy(registry.address, move |head| {
        let lower = head.to_lowercase();
        let host = address.lock().expect("no panic").expect("an address");
        let answer = |status: &str, header: &str, body: &str| {
            let length = body.len();
            Fate::Answer(format!(
                "HTTP/1.1 {status}\r\n{header}content-length: {length}\r\nconnection: close\r\n\r\n{body}"
            ))
        };
        if head.starts_with("GET /token?") {
            let scope = head.contains("scope=repository%3Aplugin%2F") && head.contains("service=test");
            let right = head.contains("Basic YW5uOnBhNTU6d29yZA==") || head.contains("basic YW5uOnBhNTU6d29yZA==");
            return if scope && right {
                answer("200 OK", "", r#"{"token": "t0ken"}"#)
            } else {
                answer("401 No", "", "no such user")
            };
        }
        if lower.contains("authorization: bearer t0ken") {
            return Fate::Forward;
        }
        let challenge = format!("www-authenticate: Bearer realm=\"http://{host}/token\",service=\"test\"\r\n");
        answer("401 Unauthorized", &challenge, "")
    });
    *address.lock().expect("no panic") = Some(gate);
    let reference = format!("{gate}/plugin:v1");
    modules.docker_config(&json!({"auths": {gate.to_string(): {"auth": "YW5uOmd1ZXNzZWQ="}}}));
    modules.push(&reference, &[]).bad("refuses the login of \"ann\"").bad("no such user");
    modules.docker_config(&json!({"auths": {gate.to_string(): {"auth": "YW5uOnBhNTU6d29yZA=="}}}));
    modules.push(&reference, &["--chunk-bytes", "4000"]).good();
    registry.manifest("plugin/inference", "v1");
}

#[test]
fn an_upload_goes_on_where_the_line_broke() {
    let (registry, modules) = (Registry::start(), Modules::of(100_000));
    let broken = proxy(registry.address, once("PATCH /v2/", 3, Fate::Lose));
    let pushed = modules.push(&format!("{broken}/plugin:v1"), &["--chunk-bytes", "30000"]).good();
    assert!(pushed.err.contains("lost the connection to the registry"), "{}", pushed.err);
    assert!(pushed.err.contains("the upload goes on at byte 60000"), "{}", pushed.err);
    // Two modules in four pieces each; a configuration, a module and a document in each repository, opened once.
    assert_eq!(registry.requests("PATCH"), 8 + sbom_pieces(&registry, 30_000), "{}", pushed.err);
    assert_eq!(registry.requests("POST"), 6, "{}", pushed.err);
    assert_modules(&registry, &modules);
}

#[test]
fn an_upload_that_breaks_anywhere_ends_well() {
    for (what, nth, fate) in [
        ("PATCH /v2/", 2, Fate::Cut(10_000)),
        ("PATCH /v2/", 2, Fate::LoseAnswer),
        ("/blobs/uploads/", 1, Fate::Lose),
        ("PUT /v2/plugin/inference/blobs/", 2, Fate::Cut(0)),
        ("PUT /v2/plugin/inference/blobs/", 2, Fate::LoseAnswer),
        ("PUT /v2/plugin/inference/manifests/", 1, Fate::Lose),
        (
            "PATCH /v2/",
            3,
            Fate::Answer("HTTP/1.1 416 Not there\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned()),
        ),
        (
            "PATCH /v2/",
            1,
            Fate::Answer("HTTP/1.1 503 Not now\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned()),
        ),
    ] {
        let (registry, modules) = (Registry::start(), Modules::of(100_000));
        let broken = proxy(registry.address, once(what, nth, fate));
        let pushed = modules.push(&format!("{broken}/plugin:v1"), &["--chunk-bytes", "30000"]).good();
        assert!(pushed.err.contains("trying again"), "{what}: {}", pushed.err);
        assert_modules(&registry, &modules);
    }
}

#[test]
fn a_registry_that_stays_broken_is_given_up() {
    let (registry, modules) = (Registry::start(), Modules::new());
    let broken = proxy(registry.address, |head| if head.starts_with("POST") { Fate::Lose } else { Fate::Forward });
    let pushed = modules.push(&format!("{broken}/plugin:v1"), &[]).bad("lost the connection to the registry");
    assert_eq!(pushed.err.matches("trying again").count(), 4, "{}", pushed.err);
}

#[test]
fn what_cannot_be_reached_is_named() {
    let (registry, modules) = (Registry::start(), Modules::new());
    modules.push("no-such-host.invalid/plugin", &[]).bad("cannot connect to the registry no-such-host.invalid");
    let free = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr()).expect("a port");
    modules.push(&format!("{free}/plugin"), &[]).bad(&format!("cannot connect to the registry {free}"));
    let with_tls = told(&mut modules.command(&format!("{}/plugin", registry.address), &[]));
    with_tls.bad("--plain-http is for registries without TLS");
}

#[test]
fn mistakes_are_found_before_anything_is_pushed() {
    let modules = Modules::new();
    modules.push("plugin", &[]).bad("\"plugin\" is not registry/repository[:tag]");
    modules.push("https://a.example/plugin", &[]).bad("leave out the scheme");
    modules.push("a.example/plugin", &["--annotation", "team"]).bad("an annotation is NAME=VALUE");
    modules.push("a.example/plugin", &["--chunk-bytes", "0"]).bad("--chunk-bytes");
    std::fs::write(modules.path("poller.wasm"), "\0elf").expect("a file");
    modules.push("a.example/plugin", &[]).bad("poller.wasm is not a Wasm module");
    std::fs::remove_file(modules.path("poller.wasm")).expect("a file");
    modules.push("a.example/plugin", &[]).bad("name another with --poller");
}

#[test]
fn cosign_signs_what_was_pushed() {
    let (registry, modules) = (Registry::start(), Modules::new());
    let reference = format!("{}/plugin:v1", registry.address);
    let key = modules.path("cosign.key").display().to_string();
    modules.push(&reference, &["--cosign-key", &key]).bad("cannot read the cosign key");
    std::fs::write(&key, "").expect("a file");
    let mut command = modules.command(&reference, &["--plain-http", "--cosign-key", &key]);
    told(command.env("PATH", modules.folder.path())).bad("cosign is not on PATH");
    assert_eq!(registry.requests("POST"), 0);

    let log = modules.path("cosign.log");
    modules.program("cosign", &format!("echo \"$@\" >>{}", log.display()));
    let pushed = modules.push(&reference, &["--cosign-key", &key]).good();
    let host = registry.address;
    let expected: String = ["inference", "metrics-poller"]
        .iter()
        .zip(pushed.digests())
        .map(|(name, digest)| format!("sign --key {key} --yes {host}/plugin/{name}@{digest}\n"))
        .collect();
    assert_eq!(std::fs::read_to_string(&log).unwrap_or_default(), expected);
    modules.program("cosign", "exit 3");
    modules.push(&reference, &["--cosign-key", &key]).bad("is pushed but not signed: cosign ended with exit status: 3");
}

#[test]
fn envoy_loads_both_modules_from_the_registry() {
    let registry = Registry::start();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let inferencectl = || {
        let mut command = Command::new(env!("CARGO_BIN_EXE_inferencectl"));
        command.current_dir(&root).env("DOCKER_CONFIG", registry.folder.path());
        command
    };
    let pushed = told(inferencectl().args(["push", &format!("{}/plugin", registry.address), "--plain-http"])).good();
    let free = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let mut bootstrap = told(inferencectl().args(["render", "envoy/plugin.json"]).args(free)).good().out;
    for module in ["inference", "metrics-poller"] {
        // What is printed for a module goes where its file was.
        let (_, printed) = pushed.out.split_once(&format!("pushed {}/plugin/{module}:", registry.address)).expect("it");
        let (_, printed) = printed.split_once("for Envoy's vm_config").expect("a stanza");
        let stanza: Vec<&str> = printed.lines().skip(1).map_while(|line| line.strip_prefix("    ")).collect();
        let local = format!("code: {{local: {{filename: \"dist/{module}.wasm\"}}}}");
        let line = bootstrap.lines().find(|line| line.ends_with(&local)).expect("the file").to_owned();
        let indent = line.replace(&local, "");
        let stanza: String = stanza.iter().map(|line| format!("{indent}{line}\n")).collect();
        bootstrap = bootstrap.replace(&format!("{line}\n"), &stanza);
    }
    let (host, port) = (registry.address.ip(), registry.address.port());
    let cluster = format!(
        "  clusters:\n  - name: oci-registry\n    type: STATIC\n    load_assignment:\n      cluster_name: oci-registry\n      \
         endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {host}, port_value: {port}}}}}}}}}]}}]\n"
    );
    bootstrap = bootstrap.replacen("  clusters:\n", &cluster, 1);
    let folder = scratch("envoy").expect("a folder");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let answer = runtime.block_on(async {
        let envoy = Envoy::start(&bootstrap, folder.path(), 1).await.expect("Envoy");
        let unknown = r#"{"model": "nobody-serves-this", "prompt": "hi"}"#;
        let request = client::post("/v1/completions", &[], unknown).expect("a request");
        client::send(envoy.listen(), request).await.expect("an answer")
    });
    // Nobody but the plugin says so.
    let log = std::fs::read_to_string(folder.path().join("envoy.log")).unwrap_or_default();
    assert_eq!(answer.status, 404, "{}\n{log}", answer.text());
    assert!(answer.text().contains("model_not_found"), "{}", answer.text());
    assert!(log.contains("metrics-poller inference-plugin: this VM polls the metrics"), "{log}");
}

fn assert_modules(registry: &Registry, modules: &Modules) {
    for (name, file) in [("inference", "inference.wasm"), ("metrics-poller", "poller.wasm")] {
        let repository = format!("plugin/{name}");
        let manifest = registry.manifest(&repository, "v1");
        assert_eq!(registry.blob(&repository, &manifest["layers"][0]), modules.bytes(file));
    }
}

/// How many pieces the documents of both modules have; what fits into one needs no PATCH.
fn sbom_pieces(registry: &Registry, chunk: usize) -> usize {
    let pieces = |name: &str| {
        let digest = registry.get(&format!("/v2/plugin/{name}/manifests/v1"), MANIFEST);
        let digest = digest.header("docker-content-digest").expect("a digest").replace(':', "-");
        let index = registry.get(&format!("/v2/plugin/{name}/manifests/{digest}"), INDEX).json().expect("an index");
        let sbom = registry.manifest(&format!("plugin/{name}"), index["manifests"][0]["digest"].as_str().expect("one"));
        let size = sbom["layers"][0]["size"].as_u64().and_then(|size| usize::try_from(size).ok()).expect("a size");
        if size <= chunk { 0 } else { size.div_ceil(chunk) }
    };
    pieces("inference") + pieces("metrics-poller")
}
