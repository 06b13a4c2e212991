#!/usr/bin/env bash
# One node, ten seconds of card transactions, three look-ups. `make demo` builds bin/granary first.
set -euo pipefail
cd "$(dirname "$0")/.."
granary=bin/granary
run_for=${1:-10s}

port=7080
while (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
target=127.0.0.1:$port

folder=$(mktemp -d)
node=
stop() {
	code=$?
	if [ -n "$node" ]; then
		kill "$node" 2>/dev/null || true
		wait "$node" 2>/dev/null || true
	fi
	[ $code -eq 0 ] || tail -n 20 "$folder/node.log" >&2
	rm -rf "$folder"
	exit $code
}
trap stop EXIT

# say shows a command before it runs.
say() {
	printf '\n\033[1m$ %s\033[0m\n' "$*"
	"$@"
}

# first prints the first grain of a kind.
first() { "$granary" grain ls "$1" --target "$target" | grep -o "$1/[^\", ]*" | sed -n 1p; }

printf '\033[1m$ %s dev --listen %s --data-dir %s &\033[0m\n' "$granary" "$target" "$folder/data"
"$granary" dev --listen "$target" --data-dir "$folder/data" >"$folder/node.log" 2>&1 </dev/null &
node=$!
for _ in $(seq 100); do
	"$granary" kind ls --target "$target" >/dev/null 2>&1 && break
	kill -0 "$node" 2>/dev/null || { echo "the node did not start:" >&2; exit 1; }
	sleep 0.1
done

say "$granary" load run transactions --rate 20000 --for "$run_for" --target "$target"
account=$(first account)
merchant=$(first merchant)
say "$granary" grain get "$account" --target "$target"
say "$granary" grain get "$merchant" --target "$target"
say "$granary" grain ls account --limit 10 --target "$target"

printf '\nThat was one node on %s. Next: %s dev, and README.md.\n' "$target" "$granary"
