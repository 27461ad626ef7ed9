# vmmigrate: everything a newcomer types. `make help` lists it.
#
# All that is written lands below build/. `make demo` and `make test` install what
# the machine lacks and say so (.ci/install); a second run needs no network.

.PHONY: help demo test test-t0 test-t1 test-t2 test-t3 test-t4 build assets bench forecast \
	chaos lint fuzz clean distclean install-build install-demo install-test lab-down FORCE
.DEFAULT_GOAL := build
# The order of prerequisites is the order of work, also under -j.
.NOTPARALLEL:
.DELETE_ON_ERROR:

# Runs a command with the project's Go, caches and folders.
run := .ci/env
version := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

PKG ?= ./...
BENCH ?= .
BENCHTIME ?= 1s
SCENARIOS ?= dirty-rates prepage outrun
REPETITIONS ?= 1
SET ?= ^Benchmark(FaultPath|DemandUnderBulk|Harvest|Slowdown|NBDCopy)$$
FUZZTIME ?= 20s
MIGRATIONS ?= 50
SEED ?=

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9 -]*:.*## / { printf "  make %-26s %s\n", $$1, $$2 }' Makefile

demo: install-demo build assets ## move a live guest between two libvirt hosts, from nothing
	$(run) build/vmmigrate lab demo --report build/demo-report.json

test: install-test build assets lint build/bin/tiers ## run all checks and all tiers of tests
	$(run) build/bin/tiers -pkg '$(PKG)' T0 T1 T2 T3 T4

test-t0 test-t1: test-t%: install-test build/bin/tiers ## one tier alone: T0 pure, T1 kernel
	$(run) build/bin/tiers -pkg '$(PKG)' T$*

test-t2 test-t3 test-t4: test-t%: install-test build assets build/bin/tiers ## T2 namespaces, T3 QEMU, T4 libvirt
	$(run) build/bin/tiers -pkg '$(PKG)' T$*

build: install-build build/vmmigrate ## build/vmmigrate, one static binary

# Go knows better than make what changed.
build/vmmigrate: FORCE
	CGO_ENABLED=0 $(run) go build -trimpath -ldflags '-s -w -X main.version=$(version)' -o $@ ./cmd/vmmigrate

build/bin/tiers: FORCE
	@$(run) go build -o $@ ./internal/tools/tiers

assets: install-demo build/guest/.made ## kernel and initramfs of the test guests, in build/guest

build/guest/.made: $(shell find testenv/guest testenv/oracle testenv/workload internal -name '*.go' 2>/dev/null) go.sum
	deb=$$(.ci/kernel) && CGO_ENABLED=0 $(run) go run ./testenv/guest/mkassets -deb "$$deb" -out build/guest
	@touch $@

# With PKG or BENCH given, those Go benchmarks alone. Without, all that the bars ask
# for in about ten minutes: migrations in the lab, and the benchmarks of SET.
bench: install-test build assets ## migrations and Go benchmarks; PKG, BENCH and BENCHTIME choose the latter alone
ifneq ($(filter command line environment,$(origin PKG) $(origin BENCH)),)
	$(run) go test -run '^$$' -bench '$(BENCH)' -benchtime '$(BENCHTIME)' -benchmem -p 1 $(PKG)
else
	mkdir -p build/bench
	$(run) go test -run '^$$' -bench '$(SET)' -benchtime 1x -timeout 5m -p 1 ./postcopy/... ./precopy/... ./migrate/nbd/... >build/bench/micro.txt || \
		{ cat build/bench/micro.txt; exit 1; }
	$(run) build/vmmigrate bench $(SCENARIOS) --repetitions $(REPETITIONS) --micro build/bench/micro.txt --out build/bench
endif

forecast: install-test build assets ## hold forecasts and advice against real migrations, for half an hour
	mkdir -p build/forecast
	$(run) build/vmmigrate bench forecast advice --out build/forecast

chaos: install-test build assets ## move guests MIGRATIONS times (50) with faults at random; SEED repeats a run
	VMMIGRATE_CHAOS=$(MIGRATIONS) VMMIGRATE_CHAOS_SEED=$(SEED) $(run) go test ./cmd/vmmigrate -count=1 -v -timeout 3h -run '^TestT4NBDChaos$$'

lint: install-build ## gofmt, go vet, staticcheck, import arrows
	.ci/lint

fuzz: install-build ## run every fuzz target for FUZZTIME each (20s)
	$(run) .ci/fuzz $(FUZZTIME)

clean: lab-down ## remove what was built; keep downloads and compiler caches
	mkdir -p build
	find build -mindepth 1 -maxdepth 1 ! -name cache ! -name go.mod -exec rm -rf --one-file-system {} +

distclean: lab-down ## remove all of build/
	if [ -d build ]; then chmod -R u+w build; fi
	rm -rf --one-file-system build

# A lab that is still up has processes that work below build/.
lab-down:
	@for lab in build/lab/*/; do \
		[ ! -d "$$lab" ] || $(run) build/vmmigrate lab --name "$$(basename "$$lab")" down; \
	done

install-build install-demo install-test: install-%:
	@.ci/install $*

FORCE:
