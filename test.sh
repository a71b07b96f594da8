#!/usr/bin/env bash
# Installs the test dependencies and runs every test. Needs a Rust toolchain, a C++ compiler and python3; with npm, the
# tests against a real Azure Blob server run too.
set -euo pipefail
cd "$(dirname "$0")"

if ! command -v cargo >/dev/null; then
  echo "a Rust toolchain is needed" >&2
  exit 1
fi
if ! command -v cc >/dev/null || ! command -v c++ >/dev/null; then
  echo "a C and C++ compiler is needed (Debian: apt-get install g++)" >&2
  exit 1
fi

if [ ! -f "${ALLUVIUM_DATA:-../shared/data}/cloud_benchmarks.csv.gz" ]; then
  echo "NOT TESTED: the real input is absent (set ALLUVIUM_DATA to its folder); the sample is tested"
fi
tests/stores/install.sh
crates/postgres/tests/install.sh
source tests/rocksdb/env.sh

cargo test --locked --workspace --features rocksdb,postgres,kafka --no-fail-fast
