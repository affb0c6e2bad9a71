# `just` lists the recipes. Nothing here is needed to build or use the product: cargo does that.

_default:
    @just --list

# formatting, lints as errors, dependency edges, generated pages
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets --locked -- -D warnings
    cargo test -p servelab --test it edges --locked
    cargo xtask docs --check

# all tests; with nextest where it is installed
test *ARGS:
    @if command -v cargo-nextest >/dev/null; then cargo nextest run --workspace --locked {{ARGS}}; else cargo test --workspace --locked {{ARGS}}; fi

# accept changed snapshots (look at the diff afterwards)
snap:
    INSTA_UPDATE=always cargo test --workspace --locked

# fuzz one target on the stable toolchain: `just fuzz sse 60`; NAME `all` runs every target
fuzz NAME SECS="30" *ARGS:
    scripts/fuzz.sh {{NAME}} {{SECS}} {{ARGS}}

# plan a million points; prints one line of a table
bench:
    cargo xtask bench plan

# the load engine's own errors and costs against the reference server; needs two cores that nobody else uses
bench-load *ARGS:
    cargo run --release -p xtask -- bench load {{ARGS}}

# clean build times per crate (target/cargo-timings); the budget is ten minutes on two cores
times:
    scripts/build-times.sh

# one binary for clusters: any x86-64 Linux with glibc 2.28 or newer (target/portable/servelab)
portable:
    scripts/portable.sh

# regenerate the pages that come from tables in the code, then the book where mdBook is installed
docs:
    cargo xtask docs
    @if command -v mdbook >/dev/null; then mdbook build docs; else echo "mdbook is not installed: docs/src is readable as it is"; fi

# run one real verification and keep its output: `just verify vllm`
verify NAME:
    cargo xtask verify {{NAME}}

# licences, advisories, banned crates (needs cargo-deny)
deny:
    cargo deny check

# exactly what CI runs
ci:
    .ci/run
