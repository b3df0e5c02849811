#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_TIME (5m), one after the other. What fails
# lies in the package's testdata/fuzz then, as a seed of every later test.
#
#   fuzz.sh              all targets
#   fuzz.sh --list       only names them: "folder target"
#   fuzz.sh FuzzA FuzzB  these
set -euo pipefail
cd "$(dirname "$0")/../.."
time=${FUZZ_TIME:-5m}

# Whatever is declared as a target is one: none can be forgotten.
targets() {
  grep -r -o --include='*_test.go' '^func Fuzz[A-Za-z0-9_]*' . | sed 's|^\./||; s|/[^/]*_test.go:func | |' | sort
}

if [ "${1:-}" = --list ]; then
  targets
  exit
fi
targets | while read -r dir target; do
  if [ $# -gt 0 ] && [[ " $* " != *" $target "* ]]; then
    continue
  fi
  printf '\n== %s %s for %s\n' "$dir" "$target" "$time"
  go test -run '^$' -fuzz "^$target\$" -fuzztime "$time" "./$dir" </dev/null
done
