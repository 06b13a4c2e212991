#!/usr/bin/env bash
# How fast one node is against the bare pipeline, in the same run: ROUNDS (5) times, alternating, streams of batches of
# 100 to 10,000 accounts and 64 unary callers. Prints each round, the medians and their ratios. With LIMITS=program a
# second reference, which takes -d and -unary, runs beside `granary load baseline`.
set -euo pipefail
cd "$(dirname "$0")/.."
granary=${GRANARY:-bin/granary}
rounds=${1:-5}
run_for=${2:-6s}
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

# rate prints the first events_per_second of the JSON on stdin.
rate() { grep -o '"events_per_second": *[0-9.]*' | sed -n '1s/.*: *//p' | cut -d. -f1; }

# ours starts a node with default settings, loads it with the flags given, prints the rate and stops it.
ours() {
	rm -rf "$folder/data"
	"$granary" dev --listen "$target" --data-dir "$folder/data" >"$folder/node.log" 2>&1 </dev/null &
	node=$!
	for _ in $(seq 100); do
		"$granary" kind ls --target "$target" >/dev/null 2>&1 && break
		sleep 0.1
	done
	"$granary" load run transactions --target "$target" --customers 10000 --for "$run_for" --ledger off -o json "$@" 2>"$folder/load.log" | rate
	kill "$node"
	wait "$node" 2>/dev/null || true
	node=
}

baseline() { "$granary" load baseline --for "$run_for" -o json "$@" 2>/dev/null | rate; }

# limits prints the rate of the second reference, or a dash.
limits() {
	if [ -z "${LIMITS:-}" ]; then echo -; return; fi
	"$LIMITS" -d "$run_for" "$@" 2>/dev/null | sed -n 's/.*ev\/s=\([0-9]*\).*/\1/p'
}

median() { sort -n | awk '$1 != "-" { v[++n] = $1 } END { if (n) print v[int((n + 1) / 2)]; else print "-" }'; }

for mode in streams unary; do
	[[ " ${MODES:-streams unary} " == *" $mode "* ]] || continue
	case $mode in
	streams) load=() reference=(-rec -part) ;;
	unary) load=(--unary 64) reference=(-unary 64) ;;
	esac
	printf '\n%s: events/s\n%8s %10s %10s %10s\n' "$mode" round limits baseline granary
	: >"$folder/l"; : >"$folder/b"; : >"$folder/g"
	for round in $(seq "$rounds"); do
		# what one of them has left for the disk must not slow down the next
		sync; l=$(limits "${reference[@]}")
		sync; b=$(baseline "${load[@]}")
		sync; g=$(ours "${load[@]}")
		echo "$l" >>"$folder/l"; echo "$b" >>"$folder/b"; echo "$g" >>"$folder/g"
		printf '%8s %10s %10s %10s\n' "$round" "$l" "$b" "$g"
	done
	l=$(median <"$folder/l"); b=$(median <"$folder/b"); g=$(median <"$folder/g")
	printf '%8s %10s %10s %10s\n' median "$l" "$b" "$g"
	awk -v l="$l" -v b="$b" -v g="$g" 'BEGIN {
		printf "granary / baseline %.2f", g / b
		if (l != "-") printf ", granary / limits %.2f, baseline / limits %.2f", g / l, b / l
		print "" }'
done
