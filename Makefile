# The doors. `make` alone says what there is.
SHELL := /bin/bash
# rustup's cargo, also where no shell profile has run.
export PATH := $(PATH):$(HOME)/.cargo/bin
TARGET := $(or $(CARGO_TARGET_DIR),target)

.PHONY: help up digits test crowd chaos chaos-bugs conformance bench fmt lint deps
.DEFAULT_GOAL := help

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

up: ## build a release and run a whole pool on this machine; ARGS="…" goes to `nightshift up`
	@scripts/deps.sh compiler rust libtorch protoc kubectl models
	cargo build --release -p nightshift-cli -p nightshift-agent
	@exec $(TARGET)/release/nightshift up --seed .deps/models/silero_vad.jit --seed examples/digits/digits.pt $(ARGS)

digits: ## train examples/digits anew: model, digest, both jobs' inputs, expected answers
	@scripts/deps.sh compiler rust libtorch protoc
	cargo run --release -p nightshift-agent --example train_digits

test: deps ## format check, build, every test; ends with the counts; ARGS="-p CRATE …" narrows it
	@scripts/test.sh $(ARGS)

crowd: deps ## 10,000 jobs of four tenants on 1,000 simulated agents: shares, starvation, explanations; minutes
	NIGHTSHIFT_CROWD_JOBS=10000 NIGHTSHIFT_CROWD_MACHINES=1000 PATH="$(CURDIR)/.deps/bin:$(PATH)" \
	  cargo test --release -p nightshift-scheduler --test crowd -- --nocapture

chaos: deps ## a pool that an adversary breaks, judged from its journal: SEEDS=20 SEED=1 (the first); a minute and a half each
	@cargo build -p nightshift-agent --bin nightshift-agent
	NIGHTSHIFT_CHAOS_SEEDS=$(or $(SEEDS),20) NIGHTSHIFT_CHAOS_SEED=$(or $(SEED),1) PATH="$(CURDIR)/.deps/bin:$(PATH)" \
	  cargo test -p nightshift-cli --features hooks --test chaos -- --ignored --nocapture many_seeds

chaos-bugs: deps ## bugs planted in the schedulers, each to be caught by the same judge within five seeds; ten minutes
	NIGHTSHIFT_CHAOS_BUG=$(BUG) PATH="$(CURDIR)/.deps/bin:$(PATH)" \
	  cargo test -p nightshift-cli --features hooks --test chaos -- --ignored --nocapture planted_bugs

conformance: deps ## the end-to-end suite on a real Kubernetes API, both homes side by side; UPDATE=1 writes docs/conformance.md
	@scripts/conformance.sh

bench: deps ## every benchmark, or one: WHAT=placement|state|api|agent|failover
	@exec bench/run $(WHAT)

fmt: ## format the code
	cargo fmt --all

lint: deps ## format, clippy, licences, generated files, the placement crate's purity
	@scripts/lint.sh

deps: ## fetch what this machine lacks into .deps/ (versions and hashes: scripts/deps.lock)
	@scripts/deps.sh
