//! No shape of a body holds a worker: what the shipped module executes for one grows with its length alone.
//!
//! Instructions are counted, which no machine's load changes; `./build.sh bench hostile` measures time.

#[path = "../examples/hostile/shapes.rs"]
mod shapes;

use shapes::{Shape, shapes};
use wasm_tests::{Metering, Process, Vm};

const BYTES: usize = 1 << 20;
/// A body of this length may be lists of two numbers for the most part, before the limit on values ends it: some 100 instructions a
/// byte. A look-up that grows with the body takes thousands.
const MOST: u64 = 128 * BYTES as u64;

fn vm(rules: &str) -> wasmtime::Result<(Process, Vm)> {
    let config = format!(
        r#"{{"pools": [{{"name": "p", "baseModel": "m", "endpoints": {{"static": ["10.0.0.1:8000"]}}}}], "rules": [{rules}]}}"#
    );
    let process = Process::new();
    let vm = Vm::load_with(&process, "inference.wasm", &config, Metering::Counted)?;
    Ok((process, vm))
}

fn instructions(vm: &mut Vm, shape: &Shape) -> wasmtime::Result<u64> {
    let id = vm.stream()?;
    vm.request_headers(id, shape.headers(), false)?;
    let before = vm.instructions();
    vm.request_body(id, &shape.body, true)?;
    let instructions = vm.instructions() - before;
    vm.end(id)?;
    Ok(instructions)
}

#[test]
fn every_shape_takes_instructions_in_proportion_to_its_length() -> wasmtime::Result<()> {
    // 256 rules compare one member with a text, and one looks at all members.
    let many: Vec<String> =
        (0..255).map(|rule| format!(r#"{{"when": "body.model == 'auto-{rule}'", "priority": 1}}"#)).collect();
    let all = format!(r#"{}, {{"when": "size(body) > 100000", "priority": 1}}"#, many.join(","));
    let mut slow = Vec::new();
    for rules in ["", r#"{"when": "body.user == 'somebody'", "priority": 1}"#, &all] {
        let (_process, mut vm) = vm(rules)?;
        for shape in shapes(BYTES) {
            let found = instructions(&mut vm, &shape)?;
            if found > MOST {
                let each = found / BYTES as u64;
                slow.push(format!("{}: {each} instructions a byte, with the rules {rules:.60}", shape.name));
            }
        }
    }
    assert!(slow.is_empty(), "{slow:#?}");
    Ok(())
}
