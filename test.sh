#!/usr/bin/env bash
# Installs what the tests need and runs them all. Needs a Rust toolchain and a C compiler; with python3 and npm the
# tests of real object stores run too.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v cargo >/dev/null; then
  echo "a Rust toolchain is needed" >&2
  exit 1
fi
if ! command -v cc >/dev/null; then
  echo "a C compiler is needed (Debian: apt-get install gcc)" >&2
  exit 1
fi

if [ ! -f "${ALLUVIUM_DATA:-../shared/data}/cloud_benchmarks.csv.gz" ]; then
  echo "NOT TESTED: the real input is absent (set ALLUVIUM_DATA to its folder); the sample is tested"
fi
tests/stores/install.sh

cargo test --locked
