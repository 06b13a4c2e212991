#!/usr/bin/env bash
# Takes a CPU profile of a node under load, streams of batches of 100 and 64 unary callers, and keeps it as
# cmd/granary/default.pgo: the Go compiler optimizes for what is hot in it.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-20}
port=7180
target=127.0.0.1:$port

folder=$(mktemp -d)
node=
stop() {
	code=$?
	[ -z "$node" ] || { kill "$node" 2>/dev/null; wait "$node" 2>/dev/null; } || true
	rm -rf "$folder"
	exit $code
}
trap stop EXIT

# without what an older profile has made of it
go build -pgo=off -o "$folder/granary" ./cmd/granary
for mode in streams unary; do
	load=()
	[ "$mode" = streams ] || load=(--unary 64)
	echo "profile of $mode: ${seconds}s"
	"$folder/granary" dev --listen "$target" --data-dir "$folder/$mode" --profiles >"$folder/node.log" 2>&1 </dev/null &
	node=$!
	for _ in $(seq 100); do
		"$folder/granary" kind ls --target "$target" >/dev/null 2>&1 && break
		sleep 0.1
	done
	"$folder/granary" load run transactions --target "$target" --customers 10000 --for "$((seconds + 4))s" --ledger off -o json "${load[@]}" >"$folder/$mode.json" 2>/dev/null &
	loads=$!
	sleep 2
	go tool pprof -proto -output "$folder/$mode.pb.gz" "http://$target/debug/pprof/profile?seconds=$seconds" >/dev/null 2>&1
	wait "$loads"
	kill "$node"
	wait "$node" 2>/dev/null || true
	node=
done
go tool pprof -proto -output cmd/granary/default.pgo "$folder/streams.pb.gz" "$folder/unary.pb.gz" >/dev/null 2>&1
ls -l cmd/granary/default.pgo
