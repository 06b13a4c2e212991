#!/usr/bin/env bash
# Runs govulncheck. Where the vulnerability database cannot be reached it says so and goes on.
set -uo pipefail
cd "$(dirname "$0")/.."

out=$(go tool -modfile=tools/vuln.mod govulncheck ./... 2>&1)
code=$?
echo "$out"
if [ $code -ne 0 ] && grep -q '^govulncheck: fetching vulnerabilities: ' <<<"$out"; then
	echo "vuln: the vulnerability database cannot be reached from here, so nothing was looked up"
	exit 0
fi
exit $code
