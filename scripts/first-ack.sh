#!/usr/bin/env bash
# How long the first acknowledgement takes: from the start of a node with an empty folder, and from the start after kill -9
# in the middle of a load, with EVENTS (1,000,000) transactions in its journal. ROUNDS (3) times each; prints milliseconds.
set -euo pipefail
cd "$(dirname "$0")/.."
granary=${GRANARY:-bin/granary}
rounds=${1:-3}
events=${2:-1000000}
target=127.0.0.1:7181

folder=$(mktemp -d)
node=
stop() {
	code=$?
	[ -z "$node" ] || { kill "$node" 2>/dev/null; wait "$node" 2>/dev/null; } || true
	rm -rf "$folder"
	exit $code
}
trap stop EXIT

start() {
	"$granary" dev --supervise=false --listen "$target" --data-dir "$folder/data" >"$folder/node.log" 2>&1 </dev/null &
	node=$!
}

# first_ack starts a node and publishes one event again and again until it is acknowledged; took is the time in all.
first_ack() {
	local from=$EPOCHREALTIME n=0
	start
	until curl -sf -m 2 -H 'content-type: application/json' "http://$target/granary.v1.EventService/Publish" \
		-d "{\"events\":[{\"grain\":\"account/probe\",\"type\":\"Charged\",\"id\":\"$from-$n\",\"source\":\"first-ack\",\"json\":{\"transactionId\":\"p\",\"merchant\":\"p\",\"amountCents\":\"1\"}}]}" >/dev/null; do
		sleep 0.01
	done
	local to=$EPOCHREALTIME
	took=$(((${to/./} - ${from/./}) / 1000))
}

for round in $(seq "$rounds"); do
	rm -rf "$folder/data"
	first_ack
	echo "cold: $took ms"
	kill "$node"; wait "$node" || true
done
rm -rf "$folder/data"
start
sleep 1
"$granary" load run transactions --target "$target" --customers 10000 --for 10m --ledger off -o json >/dev/null 2>&1 </dev/null &
load=$!
until [ "$(curl -s "http://$target/metrics" | awk '$1 == "granary_turns_total" { print int($2 / 2) }')" -ge "$events" ] 2>/dev/null; do sleep 0.05; done
for round in $(seq "$rounds"); do
	turns=$(curl -s "http://$target/metrics" | awk '$1 == "granary_turns_total" { print int($2 / 2) }')
	kill -9 "$node"; wait "$node" 2>/dev/null || true
	[ "$round" != 1 ] || { kill "$load"; wait "$load" 2>/dev/null || true; }
	first_ack
	echo "behind kill -9 (that process took $turns events): $took ms"
done
