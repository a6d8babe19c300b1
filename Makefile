# The one entry point: what CI runs is what a developer runs, by the same name. `make help` lists the targets.
# Each target that needs programs begins with scripts/setup, which installs what is missing and is quick otherwise.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory
export PATH := $(PATH):$(HOME)/.cargo/bin

CARGO := cargo
# The end-to-end tests build labs, which take the machine's cores: one at a time.
E2E := --package e2e

.PHONY: help setup build demo test lint unit doc test-e2e bench

help: ## Show this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-16s %s\n", $$1, $$2 }'

setup: ## Install what is missing from Debian's packages
	@scripts/setup

build: setup ## Build kennel and kenneld into target/debug
	$(CARGO) build --locked --workspace --bins

demo: build ## A three-host cluster on this machine: pull a plug, and watch the guest come back
	@target/debug/demo

test: lint unit doc test-e2e ## Every check: what CI runs

lint: setup ## Formatting, clippy, and where cargo-deny is installed, licences and advisories
	@scripts/lint

unit: setup ## Unit and contract tests, and the repository's checks of itself: seconds, once built
	$(CARGO) test --locked --workspace --exclude e2e

doc: setup ## The code's own documentation, into target/doc
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --locked --workspace --no-deps

test-e2e: build ## End-to-end tests on the lab: power-off, cuts, lost store members, …
	$(CARGO) test --locked $(E2E) -- --test-threads=1

bench: build ## Measure what docs/performance.md states
	@target/debug/bench
