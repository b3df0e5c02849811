#!/usr/bin/env bash
# Formatting, vet, staticcheck, and whether generated code is current.
set -euo pipefail
cd "$(dirname "$0")/../.."
unformatted=$(git ls-files '*.go' | xargs gofmt -l)
if [ -n "$unformatted" ]; then
  printf 'not gofmt-ed:\n%s\n' "$unformatted" >&2
  exit 1
fi
go mod verify >/dev/null
go vet ./...
(cd tools && go run ./protogen -check -root ..)
(cd tools && go build -o ../bin/tools/ honnef.co/go/tools/cmd/staticcheck)
bin/tools/staticcheck ./...
