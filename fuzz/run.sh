#!/usr/bin/env bash
# Runs every fuzz target for SECONDS (default 12), or only those named: fuzz/run.sh [SECONDS [TARGET...]]
#
# Works on the stable toolchain. Installs cargo-fuzz if missing; needs a C++ compiler for libFuzzer. Each target starts
# from its committed seeds and the inputs found by earlier runs, kept in fuzz/corpus. Failing inputs go to
# fuzz/artifacts and are listed at the end.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-12}
[ $# -eq 0 ] || shift
if [ $# -eq 0 ]; then
  set -- $(sed -n 's/^name = "\(.*\)"$/\1/p' Cargo.toml | grep -v '^alluvium-fuzz$')
fi

if ! command -v c++ >/dev/null; then
  echo "a C++ compiler is needed (Debian: apt-get install g++)" >&2
  exit 1
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
  cargo install cargo-fuzz --locked --version 0.13.2
fi

# Without a sanitizer cargo-fuzz needs no nightly compiler. The one module with unsafe code reads no input; its tests run
# under AddressSanitizer (docs/testing.md).
fuzz() { cargo fuzz "$1" --sanitizer none "${@:2}"; }

fuzz build

failed=()
for target in "$@"; do
  mkdir -p "corpus/$target"
  printf '\n=== %s, %s s\n' "$target" "$seconds"
  # A short timeout per input finds loops; each target bounds its own memory.
  fuzz run "$target" "corpus/$target" "seeds/$target" -- \
    -max_total_time="$seconds" -max_len=4096 -timeout=20 -rss_limit_mb=512 -print_final_stats=1 -verbosity=0 ||
    failed+=("$target")
done

for target in ${failed+"${failed[@]}"}; do
  echo "FAILED: $target; to replay: cd fuzz && cargo fuzz run --sanitizer none $target artifacts/$target/<file>"
  ls -1 "artifacts/$target" 2>/dev/null || true
  echo "after the fix, move the input to fuzz/seeds/$target as crash-<cause>"
done
[ ${#failed[@]} -eq 0 ]
