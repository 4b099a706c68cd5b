#!/usr/bin/env bash
# Runs cargo with a compiler for a wasm target:  ./toolchain.sh TARGET CARGO-ARGUMENTS...
#
# The usual road is rustup's target. Where rustup cannot fetch it, Debian's packages bring a compiler and
# the standard library's source, and the library is built along. WASM_TOOLCHAIN=rustup or =debian forces one.
set -euo pipefail

target=$1
shift

has_target() { [ -d "$(rustc --print sysroot 2>/dev/null)/lib/rustlib/$target/lib" ]; }

lld() { compgen -c wasm-ld- 2>/dev/null | grep -E '^wasm-ld-[0-9]+$' | sort -t- -k3 -n | tail -1; }

install_debian() {
    if [ -x /usr/bin/cargo ] && [ -d /usr/lib/wasm32-wasi ] && [ -n "$(lld)" ] && rust_source >/dev/null; then
        return
    fi
    command -v apt-get >/dev/null || die "no wasm target: run 'rustup target add $target', or use a Debian with rustc-web"
    local as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -qq
    # The package's number follows LLVM's; the newest one that is on offer reads what the compiler writes.
    local newest
    newest=$(apt-cache search --names-only '^lld-[0-9]+$' | cut -d' ' -f1 | sort -t- -k2 -n | tail -1)
    [ -n "$newest" ] || die "apt offers no lld"
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
        rustc-web cargo-web rust-web-src wasi-libc "$newest" gcc libc6-dev >&2
}

rust_source() { ls -d /usr/src/rustc-*/library 2>/dev/null | tail -1 | grep .; }

die() { echo "toolchain.sh: $*" >&2; exit 1; }

road=${WASM_TOOLCHAIN:-auto}
if [ "$road" = auto ]; then
    if has_target || (command -v rustup >/dev/null && rustup target add "$target" >&2); then
        road=rustup
    else
        echo "toolchain.sh: rustup cannot add $target; taking Debian's compiler" >&2
        road=debian
    fi
fi

case $road in
rustup)
    has_target || rustup target add "$target" >&2 || die "rustup cannot add $target"
    exec cargo "$@" --target "$target"
    ;;
debian)
    install_debian
    variable=$(echo "$target" | tr 'a-z-' 'A-Z_')
    export "CARGO_TARGET_${variable}_LINKER=$(lld)"
    if [ "$target" = wasm32-wasip1 ]; then
        export "CARGO_TARGET_${variable}_RUSTFLAGS=-C link-self-contained=no -L native=/usr/lib/wasm32-wasi"
    fi
    export RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1
    exec /usr/bin/cargo "$@" --target "$target" -Zbuild-std=std,panic_abort
    ;;
*) die "WASM_TOOLCHAIN is '$road', but must be auto, rustup or debian" ;;
esac
