#!/usr/bin/env bash
# Runs every fuzz target for FUZZ_TIME (5m; 2000x for so many inputs), one after
# the other. What fails lies in the package's testdata/fuzz then, as a seed of
# every later test.
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
# Until Go 1.27 a target can end at its time with "context deadline exceeded"
# and no failing input (go.dev/issue/75804): nothing was found.
run() {
  local out
  out=$(mktemp)
  if ! go test -run '^$' -fuzz "^$2\$" -fuzztime "$time" "./$1" </dev/null 2>&1 | tee "$out"; then
    grep -q '^ *context deadline exceeded$' "$out" && ! grep -q 'Failing input' "$out" || exit 1
    printf 'its time was over; nothing was found\n'
  fi
  rm "$out"
}
targets | while read -r dir target; do
  if [ $# -gt 0 ] && [[ " $* " != *" $target "* ]]; then
    continue
  fi
  printf '\n== %s %s for %s\n' "$dir" "$target" "$time"
  run "$dir" "$target"
done
