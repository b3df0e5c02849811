# Everything a person or a machine needs to do here. `make help` lists it.

GO      ?= go
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/waggle-im/waggle/internal/version.commit=$(VERSION)

.PHONY: help run test build lint proto fuzz torture bench web

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## /{printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

run: build ## build and start the embedded cluster
	@exec bin/waggle dev

build: ## bin/waggle
	@mkdir -p bin
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

test: ## everything that decides whether a change is good
	@deploy/dev/test.sh

lint: ## formatting, vet, staticcheck, generated code
	@deploy/dev/lint.sh

proto: ## generate the Go code of the .proto files
	cd tools && $(GO) run ./protogen -root ..

fuzz: ## five minutes, or FUZZ_TIME, for each fuzz target
	@deploy/dev/fuzz.sh

torture: ## the long forms of the tests that kill, stop and cut; writes torture-report.md and torture-moves.md
	LONG_TESTS=1 TORTURE_REPORT=$(CURDIR)/torture-report.md $(GO) test -count=1 -timeout 2h -v -run ^TestMatrixLong$$ ./internal/testcluster
	LONG_TESTS=1 TORTURE_MOVES=$(CURDIR)/torture-moves.md $(GO) test -count=1 -timeout 2h -v -run ^TestMoveMatrixLong$$ ./internal/testcluster
	LONG_TESTS=1 $(GO) test -count=1 -timeout 3h -v -run 'MovesLeave|WokenAfter|EtcdAwayInTheMiddle|SlowTransfers|UploadsSurvive|Leftover|Recover|RollingRestart' ./internal/testcluster
	LONG_TESTS=1 $(GO) test -count=3 -timeout 4h -v -run 'Promise1|Killed|Stopped|Away|EveryThread|SlowReaders|TwiceTheKnee|NothingBehind|Flood' ./internal/testcluster
	LONG_TESTS=1 $(GO) test -count=1 -timeout 10m -v -run ADayOfHeartbeats ./edge
	LONG_TESTS=1 GOMAXPROCS=1 $(GO) test -count=1 -timeout 90m -v -run FreshSeeds ./cell/storage/sim

bench: build ## measure a private cluster in short forms, in less than a quarter of an hour
	@bench/bench.sh
