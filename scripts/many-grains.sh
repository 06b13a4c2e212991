#!/usr/bin/env bash
# Many grains on one node with the memory it has by default: GRAINS (10,000,000) accounts are made, then MEASURE (60s) of
# uniform and of Zipf access, and cold look-ups. Prints rates, latencies, the node's memory and its pauses.
set -euo pipefail
cd "$(dirname "$0")/.."
granary=${GRANARY:-bin/granary}
grains=${1:-10000000}
measure=${2:-60s}
target=127.0.0.1:7182

folder=${FOLDER:-$(mktemp -d)}
node=
stop() {
	code=$?
	[ -z "$node" ] || { kill "$node" 2>/dev/null; wait "$node" 2>/dev/null; } || true
	[ -n "${FOLDER:-}" ] || rm -rf "$folder"
	exit $code
}
trap stop EXIT

"$granary" dev --supervise=false --listen "$target" --data-dir "$folder/data" >"$folder/node.log" 2>&1 </dev/null &
node=$!
until "$granary" kind ls --target "$target" >/dev/null 2>&1; do sleep 0.1; done

# metric prints one value of /metrics.
metric() { curl -s "http://$target/metrics" | awk -v name="$1" '$1 == name { printf "%.0f", $2 * '"${2:-1}"' }'; }
memory() {
	printf '%-10s %s MiB resident (most %s), %s activations, longest pause of the collector %s µs, %s MiB on disk\n' "$1" \
		"$(metric process_resident_memory_bytes 1/1048576)" "$(awk '/VmHWM/ { printf "%d", $2 / 1024 }' "/proc/$node/status")" \
		"$(metric granary_resident_grains)" "$(metric 'go_gc_duration_seconds{quantile="1"}' 1000000)" "$(metric granary_store_disk_bytes 1/1048576)"
}
# load runs a load and prints its rate and latencies.
load() {
	local name=$1
	shift
	local before after
	before=$(metric granary_activations_total)
	"$granary" load run transactions --target "$target" --customers "$grains" --ledger off "$@" 2>/dev/null | awk -v name="$name" '
		/^rate|^latency/ { sub(/^[a-z]+ +/, ""); line = line (line ? "; " : "") $0 } END { printf "%-10s %s\n", name, line }'
	after=$(metric granary_activations_total)
	memory "$name"
	printf '%-10s %s grains loaded\n' "$name" $((after - before))
}

memory new
load fill --fill
load uniform --access uniform --seed 7 --for "$measure"
load 'zipf 1.1' --access zipf:1.1 --seed 8 --for "$measure"
load '20k/s' --access uniform --seed 9 --rate 20000 --for "$measure"

# cold look-ups, one after the other on one connection
awk -v n="$grains" 'BEGIN { srand(11); for (i = 0; i < 1000; i++) printf "{\"grain\":\"account/%d\"}\n", int(rand() * n) }' >"$folder/names"
between=
while read -r body; do
	printf '%surl = "http://%s/granary.v1.GrainService/Get"\ndata = "%s"\nheader = "content-type: application/json"\noutput = /dev/null\nwrite-out = "%%{time_total}\\n"\n' \
		"$between" "$target" "${body//\"/\\\"}"
	between=$'next\n'
done <"$folder/names" >"$folder/requests"
curl -s -K "$folder/requests" | sort -n | awk '{ v[NR] = $1 * 1000 } END { printf "look-ups   %d cold ones: p50 %.2f ms, p99 %.2f ms\n", NR, v[int(NR / 2)], v[int(NR * 0.99)] }'
