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
step 'build for the tests'
go build -race ./...
# The tests of whole clusters take longest and wait half of their time, so all
# others run beside them, one package after the other. A quiet machine of two
# cores takes a quarter of an hour; the time limits are for what hangs.
alone='/cell/storage/(sim|state)$|/edge/admission$|/internal/archtest$'
step 'tests'
set -m # a process group of its own, to be ended as one
go test -race -count=1 -timeout 30m ./internal/testcluster &
clusters=$!
set +m
trap 'kill -- -$clusters 2>/dev/null || true' EXIT
go test -race -count=1 -timeout 30m -p 1 $(go list ./... | grep -v -E "/internal/testcluster$|$alone")
# These run in one goroutine at a time: the race detector would find nothing and
# make them many times slower, or the simulation see fewer seeds.
step 'models and simulation'
go test -count=1 -timeout 10m -p 1 $(go list ./... | grep -E "$alone")
# The corpora ran with the tests; this looks for what is new where strangers and
# peers are read, about half a minute in all. Inputs are counted, not seconds: a
# busy machine tries as many.
step 'fresh fuzzing'
FUZZ_TIME=2000x deploy/dev/fuzz.sh FuzzClientFrames FuzzApply FuzzLeadReply
step 'the tests of whole clusters, to their end'
wait $clusters
