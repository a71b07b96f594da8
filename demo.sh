#!/usr/bin/env bash
# The main job, end to end: NEXMark bids, aggregated by auction and window with a checkpoint every 200 ms; killed,
# restarted at another parallelism, killed again, finished. Its output must equal an undisturbed run's, with every
# window published exactly once.
set -euo pipefail
cd "$(dirname "$0")"

events=${1:-1000000}
work=$(mktemp -d "${TMPDIR:-/tmp}/alluvium-demo.XXXXXX")
trap 'rm -rf "$work"' EXIT
say() { printf '\n\033[1m%s\033[0m\n' "$*"; }

say "building (the first time takes some minutes)"
cargo build --release --locked -p alluvium-cli --no-default-features
target="${CARGO_TARGET_DIR:-target}/release/alluvium"

job=(--input "nexmark:$events" --key auction --agg count,max:price,mean:price,distinct:bidder
     --window tumbling:10s --time date_time --interval 200ms --emit on-close)
killed=(--store "file://$work/state" --job bids --output "$work/killed")

say "one undisturbed run"
"$target" run "${job[@]}" --store "file://$work/undisturbed" --job bids --output "$work/alone" --parallelism 2

round=0
for parallelism in 2 3; do
  round=$((round + 1))
  say "run $round: parallelism $parallelism, killed on the way"
  "$target" run "${job[@]}" "${killed[@]}" --parallelism "$parallelism" --rate $((events / 8)) &
  pid=$!
  sleep 2.5
  kill -9 "$pid"
  wait "$pid" 2>/dev/null || echo "killed (SIGKILL)"
  echo "parts published so far: $(find "$work/killed" -name 'part-*.csv' | wc -l)"
done

say "run 3: parallelism 5, to the end"
"$target" run "${job[@]}" "${killed[@]}" --parallelism 5

say "the checkpoints in the store"
"$target" list --store "file://$work/state"
"$target" verify --store "file://$work/state" --job bids --level full

say "the output"
rows() { for part in "$1"/part-*.csv; do tail -n +2 "$part"; done | LC_ALL=C sort; }
rows "$work/alone" > "$work/alone.csv"
rows "$work/killed" > "$work/killed.csv"
head -n 3 "$work/killed.csv"
echo "windows published: $(wc -l < "$work/killed.csv"), of these twice: $(cut -d, -f1,2 "$work/killed.csv" | uniq -d | wc -l)"
if cmp "$work/alone.csv" "$work/killed.csv"; then
  echo "identical to the undisturbed run's output"
else
  echo "DIFFERENT from the undisturbed run's output" >&2
  exit 1
fi
