# The one entry point: what CI runs is what a developer runs, by the same name. `make help` lists the targets.
# Each target that needs programs begins with scripts/setup, which installs what is missing and is quick otherwise.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PATH := $(PATH):$(HOME)/.cargo/bin

CARGO := cargo
# The end-to-end tests build labs, which mostly wait: so many at a time. The one that measures load has the machine
# to itself.
LABS ?= 3

.PHONY: help setup web build test-build demo test lint lint-web unit doc test-e2e test-web screenshots test-metrics test-fencing \
	torture torture-mirror bench bench-failover bench-page bench-migration bench-planner bench-writes sim sim-mutants

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

setup: ## Install what is missing from Debian's packages
	@scripts/setup

# `npm ci` takes exactly what the lock file says. It runs anew when that changes, and the build when a source does.
NPM_CI := npm ci --no-audit --no-fund --loglevel=error
WEB_SOURCES := $(shell find web/src web/public web/scripts -type f) $(wildcard web/*.html web/*.json web/*.ts)

%/node_modules/.package-lock.json: %/package-lock.json
	cd $* && PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD=1 $(NPM_CI) && touch node_modules/.package-lock.json

web/dist/index.html: web/node_modules/.package-lock.json $(WEB_SOURCES)
	cd web && npm run --silent build

web: setup ## Build the web page, which kenneld embeds
	@$(MAKE) web/dist/index.html

build: setup web ## Build kennel and kenneld into target/debug
	$(CARGO) build --locked --workspace --bins

# As `build`, with the features that tests bring to libraries, so that nothing is compiled a second time after `unit`.
test-build: setup web
	$(CARGO) build --locked --workspace --bins --test stories

demo: build ## A three-host cluster on this machine: pull a plug, and watch the guest come back
	@target/debug/demo

test: lint unit doc test-e2e test-web ## Every check: what CI runs

lint: setup web lint-web ## Formatting, clippy, types, and where cargo-deny is installed, licences and advisories
	@scripts/lint

lint-web: web
	@$(MAKE) tests/web/node_modules/.package-lock.json
	cd web && npm run --silent check
	cd tests/web && npm run --silent check

unit: setup ## Unit and contract tests, and the repository's checks of itself: seconds, once built
	$(CARGO) test --locked --workspace --exclude e2e

doc: setup ## The code's own documentation, into target/doc
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps

test-e2e: test-build ## End-to-end tests on the lab: power-off, cuts, lost store members, …
	@scripts/stories --test-threads=$(LABS) --skip balancing::
	@scripts/stories balancing::

test-web: test-build ## The web page in Chromium, against a lab: sign in, create, console, failover, accessibility
	@$(MAKE) tests/web/node_modules/.package-lock.json
	cd tests/web && npm test --silent

screenshots: test-build ## The pictures of the README, taken from a real lab into docs/images: two minutes
	@$(MAKE) tests/web/node_modules/.package-lock.json
	cd tests/web && KENNEL_WEB_LAB=home npm run --silent screenshots

test-fencing: test-build ## Fencing through real BMCs (ipmi_sim) and fence_ipmilan: lies, wrong passwords, a leader that dies in the middle
	@scripts/stories --test-threads=$(LABS) --include-ignored fencing::

test-health: test-build ## Guests that are not well: panics, services that hang, restarts elsewhere: three minutes
	@scripts/stories --test-threads=$(LABS) --include-ignored health::

test-metrics: test-build ## A real Prometheus (installed if it is missing) on a lab of one host: metrics, alert rules, dashboard
	@scripts/setup-prometheus
	$(CARGO) test --locked --workspace --lib metrics
	$(CARGO) test --locked --workspace --test metrics -- --ignored

torture: build ## A lab with six guests under random real faults: power, cuts, freezes, kills, full disks (MINUTES=30 SEED=)
	@MINUTES=$(or $(MINUTES),30) $(if $(SEED),SEED=$(SEED)) $(if $(GUESTS),GUESTS=$(GUESTS)) target/debug/torture

torture-mirror: build ## Break replication at random, and compare the copies: forty minutes (MINUTES=10 SCHEDULES=50 SEED=)
	@MINUTES=$(or $(MINUTES),10) SCHEDULES=$(or $(SCHEDULES),50) $(if $(SEED),SEED=$(SEED)) target/debug/torture-mirror

bench: build ## Measure what docs/performance.md states of writes, of daemons at rest, and of a console's echo
	@target/debug/bench

bench-page: build ## The page and the API before 1,000 hosts and 20,000 guests: twelve minutes (BENCH_RATE=600)
	@$(MAKE) tests/web/node_modules/.package-lock.json
	cd tests/web && npm run --silent bench

RUNS ?= 20

bench-failover: build ## Pull the plug of a guest's host RUNS=20 times: detect, prove, decide, start; ten minutes
	@RUNS=$(RUNS) target/debug/bench failover

bench-migration: build ## Moves of a running guest, beside plain QEMU: ten minutes
	@target/debug/bench migration

bench-writes: build ## A guest's writes, mirrored and not, beside QEMU alone and its own mirror job: five minutes
	@target/debug/bench writes

bench-planner: setup ## The planner beside Ganeti's hbal: twenty minutes on two idle cores (HBAL_SECONDS=60: ten)
	@scripts/setup-referees
	$(CARGO) bench --locked --package plan --bench balance -- compare $(HBAL_SECONDS)

SEEDS ?= 25000
FROM ?= 0

sim: setup ## Strike simulated clusters with faults: SEEDS=25000 is a million of them; FROM=0 is the first seed
	$(CARGO) run --locked --release --package sim --no-default-features -- seeds --from $(FROM) --count $(SEEDS) --threads $$(nproc)

sim-mutants: setup ## Let the simulation find deliberate faults of the protocol: the table in docs/simulation.md
	$(CARGO) run --locked --release --package sim --no-default-features -- mutants --threads $$(nproc)
