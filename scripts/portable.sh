#!/usr/bin/env bash
# Builds the one file that a cluster needs: a `servelab` for every x86-64 Linux with glibc 2.28 or newer (RHEL 8, SLES 15 SP3,
# Ubuntu 20.04 and later). Usage: scripts/portable.sh [OUTPUT]        default: target/portable/servelab
# cargo-zigbuild links against old symbols with zig's linker; both come as wheels, pinned here, into a virtual environment
# below target (needs python3 with venv, and 450 MB). Nothing is installed outside of it.
set -euo pipefail
cd "$(dirname "$0")/.."
glibc=2.28
target=x86_64-unknown-linux-gnu
out=${1:-target/portable/servelab}
tools=${CARGO_TARGET_DIR:-target}/portable/tools

command -v readelf >/dev/null || { echo "readelf is missing: install binutils" >&2; exit 1; }
if ! [ -x "$tools/bin/cargo-zigbuild" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet --disable-pip-version-check cargo-zigbuild==0.24.1 ziglang==0.17.1
fi
[ "$(rustc -vV | sed -n 's/^host: //p')" = "$target" ] || rustup target add "$target"

# What a compiler in the environment would add (-march=native, say) belongs to this machine.
unset RUSTFLAGS CFLAGS CXXFLAGS
PATH=$(cd "$tools/bin" && pwd):$PATH cargo zigbuild --release --locked -p servelab --target "$target.$glibc"

built=${CARGO_TARGET_DIR:-target}/$target/release/servelab
newest=$(readelf --version-info --wide "$built" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
if [ "$(printf '%s\n' "GLIBC_$glibc" "$newest" | sort -V | tail -n 1)" != "GLIBC_$glibc" ]; then
    echo "$built needs $newest, which is newer than GLIBC_$glibc" >&2
    exit 1
fi
mkdir -p "$(dirname "$out")"
cp "$built" "$out"
"$out" --version
echo "$out: $(stat -c %s "$out") bytes, newest symbol $newest"
