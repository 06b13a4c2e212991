# Everything is started from here; `make` alone shows what there is. Only Go, make and git are needed, beside a C
# compiler for `make race`. The first `make check` builds the pinned tools, which takes some minutes.
.DEFAULT_GOAL := help
SHELL := /bin/bash
export CGO_ENABLED := 0

SEEDS    ?= 1000
SEED     ?= 1
TIME     ?= 60s
FUZZTIME ?= 10s
COUNT    ?= 5
PKG      ?= ./...

buf      := go tool -modfile=tools/buf.mod buf
golangci := go tool -modfile=tools/lint.mod golangci-lint

.PHONY: help
help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-16s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/granary
	go build -o bin/granary ./cmd/granary

.PHONY: demo
demo: build ## start a node, let card transactions flow in, look three things up
	scripts/demo.sh

.PHONY: test
test: ## run all tests, those of the example included, without cgo and the race detector
	go test $(PKG)
	cd examples/ownkind && go test ./...

.PHONY: walkthrough
walkthrough: ## do in an empty folder what docs/kinds.md says (takes modules from where go gets them)
	GRANARY_WALKTHROUGH=1 go test -count=1 -run TestWalkThrough .

.PHONY: race
race: ## run all tests under the race detector (needs a C compiler)
	CGO_ENABLED=1 go test -race $(PKG)

.PHONY: check
check: check-generated lint tidy vuln ## generated code current, all linters, go.mod tidy, known vulnerabilities

.PHONY: check-generated
check-generated: ## regenerate in a copy and compare
	scripts/check-generated.sh

.PHONY: lint
lint: build/proto ## buf lint, gofmt, go vet, golangci-lint
	$(buf) lint
	@unformatted=$$(gofmt -l $$(git ls-files --cached --others --exclude-standard '*.go')); \
	  if [ -n "$$unformatted" ]; then echo "not formatted, run gofmt -w on:"; echo "$$unformatted"; exit 1; fi
	go vet ./...
	cd examples/ownkind && go vet ./...
	$(golangci) run ./...

.PHONY: tools
tools: ## build the pinned generators and linters, so that later calls are quick
	@for tool in buf:buf lint:golangci-lint vuln:govulncheck gen:protoc-gen-go gen:protoc-gen-go-grpc \
	  gen:protoc-gen-go-vtproto gen:protoc-gen-connect-go; do \
	  echo "$${tool#*:}"; go tool -modfile=tools/$${tool%:*}.mod -n "$${tool#*:}" >/dev/null || exit 1; done

.PHONY: tidy
tidy: ## fail when go.mod or go.sum are not tidy
	go mod tidy -diff
	cd examples/ownkind && go mod tidy -diff

.PHONY: vuln
vuln: ## look the dependencies up in the Go vulnerability database, if it can be reached
	scripts/vuln.sh

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10s) each
	scripts/fuzz.sh $(FUZZTIME)

.PHONY: crash
crash: ## run SEEDS (1000) seeds of power cuts on whole nodes
	go test ./loadtest/crash -run TestPowerCuts -count=1 -timeout=0 -seeds=$(SEEDS)

.PHONY: sim
sim: ## run SEEDS (1000) seeds of the simulation, from SEED (1) on, TIME (60s) of faults each
	set -o pipefail; go test ./loadtest/sim -run TestSeeds -count=1 -timeout=0 -v -seeds=$(SEEDS) -seed=$(SEED) -virtual=$(TIME) | grep -v '^ *--- PASS\|^=== RUN\|, hash '

.PHONY: chaos
chaos: ## torture the real binary for TIME (60s): kill -9, stopped, cut off, disk full, failed syncs (the last two: root, strace)
	go test ./loadtest/chaos -run TestChaos -count=1 -timeout=0 -v -for=$(TIME) $(if $(filter file,$(origin SEED)),,-seed=$(SEED))

.PHONY: mutants
mutants: ## plant one bug after the other in the production code and let the simulation find it
	go run ./loadtest/mutants

.PHONY: bench
bench: ## run the benchmarks of PKG (all), COUNT (5) times each
	go test -run '^$$' -bench . -benchmem -count=$(COUNT) $(PKG)

.PHONY: speed
speed: build ## events a second of one node against the bare pipeline, alternating, COUNT (5) rounds
	scripts/speed.sh $(COUNT)

.PHONY: first-ack
first-ack: build ## how soon a node answers: when it is new, and behind kill -9 with a million events
	scripts/first-ack.sh

.PHONY: profile
profile: ## profile a node under load for the compiler (cmd/granary/default.pgo)
	scripts/profile.sh

.PHONY: generate
generate: build/proto ## generate the Go code of proto/
	$(buf) generate
	cd examples/ownkind && go tool -modfile=../../tools/buf.mod buf generate

# Third-party .proto files that ours import. Never checked in: rendered from their Go modules.
build/proto: tools/renderproto.go tools/gen.mod
	go run -modfile=tools/gen.mod tools/renderproto.go $@
	@touch $@

.PHONY: clean
clean: ## remove what was built
	rm -rf bin build
