#!/usr/bin/env bash
# Fails when the generated code under proto/ is not what `make generate` makes of the .proto files.
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R Makefile go.mod go.sum buf.yaml buf.gen.yaml tools proto "$copy"
find "$copy/proto" -name '*.go' -delete

make --no-print-directory -s -C "$copy" generate
if ! diff -r proto "$copy/proto"; then
	echo "generated code is not current: run 'make generate' and remove what is found only in proto" >&2
	exit 1
fi
