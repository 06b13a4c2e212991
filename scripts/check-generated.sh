#!/usr/bin/env bash
# Fails when the generated code under proto/, or that of the example, is not what `make generate` makes of the .proto
# files.
set -euo pipefail
cd "$(dirname "$0")/.."

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
cp -R Makefile go.mod go.sum buf.yaml buf.gen.yaml tools proto examples "$copy"
find "$copy/proto" -name '*.go' -delete
find "$copy/examples" -name '*.pb.go' -delete

make --no-print-directory -s -C "$copy" generate
if ! diff -r proto "$copy/proto" || ! diff -r examples "$copy/examples"; then
	echo "generated code is not current: run 'make generate' and remove what is found only in proto or examples" >&2
	exit 1
fi
