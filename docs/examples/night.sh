#!/bin/sh
# Embeds a night on a static cluster (RAY_ADDRESS), or on this machine: night.sh CONFIG [DATE].
# Only exit code 4 is tried again. The date is taken once: a retry after midnight continues with the same dataset.
set -u
config=$1
date=${2:-$(date -u +%F)}
tries=${TRIES:-4}
while :; do
  albert-embed nightly "$config" --run-date "$date" --quiet
  code=$?
  tries=$((tries - 1))
  if [ "$code" -ne 4 ] || [ "$tries" -le 0 ]; then
    exit "$code"
  fi
  sleep "${PAUSE:-600}"
done
