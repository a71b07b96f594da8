#!/bin/sh
# Fills the corpus of each target with the golden files. Then, for example:
#   cargo +nightly fuzz run segment_open -- -max_total_time=60
set -eu
cd "$(dirname "$0")"
golden=../tests/golden/v1
mkdir -p corpus/segment_open corpus/pack_open corpus/manifest_decode
cp "$golden"/*.segment corpus/segment_open/
cp "$golden"/*.pack corpus/pack_open/
cp "$golden"/*.manifest "$golden"/*.marker corpus/manifest_decode/
