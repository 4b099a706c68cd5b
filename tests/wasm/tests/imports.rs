//! What the shipped modules ask of their host.

use std::collections::BTreeSet;

use wasm_tests::module_bytes;

/// The WASI calls that the standard library's start-up and its panic message need; and what the interpreter of rules brings along: seeds for its hash maps, whose keys clients choose, a
/// lock that yields where there are threads, and a clock that nothing reads: the scripted host has neither.
const WASI: [&str; 7] =
    ["clock_time_get", "environ_get", "environ_sizes_get", "fd_write", "proc_exit", "random_get", "sched_yield"];

#[test]
fn the_modules_import_the_abi_and_little_else() {
    for name in ["inference.wasm", "metrics-poller.wasm"] {
        let engine = wasmtime::Engine::default();
        let module = wasmtime::Module::new(&engine, module_bytes(name).unwrap()).unwrap();
        let mut wasi = BTreeSet::new();
        for import in module.imports() {
            match import.module() {
                "env" => assert!(import.name().starts_with("proxy_"), "{name} imports {}", import.name()),
                "wasi_snapshot_preview1" => {
                    wasi.insert(import.name().to_owned());
                }
                other => panic!("{name} imports {other}.{}", import.name()),
            }
        }
        assert_eq!(wasi, WASI.map(str::to_owned).into(), "{name}");
        assert!(module.exports().any(|export| export.name() == "proxy_abi_version_0_2_1"), "{name}");
    }
}

#[test]
fn the_modules_are_small() {
    for name in ["inference.wasm", "metrics-poller.wasm"] {
        let bytes = module_bytes(name).unwrap().len();
        assert!(bytes < 3_200_000, "{name} has {bytes} bytes");
    }
}
