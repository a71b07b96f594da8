#!/usr/bin/env bash
# Runs a cluster of processes on this machine, for tests and demonstrations: when one of them fails, all are started again, until all
# have ended well. A cluster of timely is fail-stop, so the others end by themselves.
#
#   supervise.sh PROCESSES COMMAND...
set -u
processes=$1
shift
while true; do
  pids=()
  for ((process = 0; process < processes; process++)); do
    "$@" -n "$processes" -p "$process" &
    pids+=($!)
  done
  failed=0
  for pid in "${pids[@]}"; do
    wait "$pid" || failed=1
  done
  ((failed)) || exit 0
  echo "supervise: a process has ended, and all are started again" >&2
done
