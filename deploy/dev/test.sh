#!/usr/bin/env bash
# All tests. Says what it does, stops at the first failure.
set -euo pipefail
cd "$(dirname "$0")/../.."
step() { printf '\n== %s\n' "$*"; }
step 'programs the tests need'
deploy/dev/programs.sh
export TEST_SERVERS=1
step 'lint'
deploy/dev/lint.sh
step 'other systems build'
GOOS=darwin go build ./...
GOOS=windows go build ./...
step 'tests'
# The tests of whole clusters take longest and mostly wait: they begin first, and
# the others run beside them. A quiet machine of two cores takes a quarter of an
# hour; the time limit is for what hangs.
go test -race -count=1 -timeout 30m ./internal/testcluster $(go list ./... | grep -v -e /cell/storage/sim -e /internal/testcluster)
# The simulation runs in one goroutine at a time: the race detector would only
# make it see fewer seeds.
step 'simulation'
go test -count=1 -timeout 10m ./cell/storage/sim
# The corpora ran with the tests; this looks for what is new where strangers and
# peers are read, about half a minute in all.
step 'fresh fuzzing'
FUZZ_TIME=5s deploy/dev/fuzz.sh FuzzClientFrames FuzzApply FuzzLeadReply
