# hawk: short targets that explain themselves. `make help` lists them.

CARGO ?= cargo
TARGET = $(or $(CARGO_TARGET_DIR),target)
HAWK   = $(TARGET)/release/hawk
ARGS  ?=
SOAK  ?= 10m
ADVISORIES = https://github.com/RustSec/advisory-db

.DEFAULT_GOAL := help
.PHONY: help build run demo restart-demo test sim sim-notified sim-dishonest mutants fuzz soak test-kill test-power test-systemd lint deny check-binary fmt doc bench bench-micro bench-instructions bench-store bench-limits bench-restart bench-scale install clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build the release binary, target/release/hawk
	$(CARGO) build --release --locked

run: build ## Run the server on 127.0.0.1:9876 (ARGS="--listen ..." for more)
	$(HAWK) serve $(ARGS)

demo: build ## Run the server under the default load for 10 s and show what both did
	./examples/demo.sh $(HAWK)

restart-demo: build ## Restart the server ten times under the default load, without an error
	./examples/restart.sh $(HAWK)

test: ## Run every test
	$(CARGO) test --locked --workspace
	@command -v go >/dev/null || echo "SKIPPED: the interop test, needs Go (Debian: golang-go)"
	@command -v strace >/dev/null || echo "SKIPPED: the test of system calls, needs strace (Debian: strace)"

sim: ## Simulate worlds until one breaks an invariant (HAWK_SIM_STEPS, HAWK_SIM_TIME in seconds, HAWK_SIM_SEED)
	$(CARGO) test --locked --release --test sim -- --ignored --exact run::sim --nocapture

sim-notified: ## Simulate notification likewise (the same variables)
	$(CARGO) test --locked --release --test worlds -- --ignored --exact notified::sim --nocapture

sim-dishonest: ## Simulate dishonest agents, clocks and files likewise (the same variables)
	$(CARGO) test --locked --release --test worlds -- --ignored --exact dishonest::sim --nocapture

mutants: ## Check that the simulator finds each of some 130 small faults
	$(CARGO) test --locked --test mutants -- --ignored --nocapture

test-kill: ## Kill the server 1,000 times under load and check that each acknowledged report is stored
	HAWK_KILLS=1000 $(CARGO) test --locked --test store kill -- --nocapture

test-power: ## Cut the power of an emulated machine 100 times and check the same
	tests/emulated/prepare test-power $(TARGET)/emulated cc:gcc \
		mke2fs:e2fsprogs e2fsck:e2fsprogs debugfs:e2fsprogs
	$(CARGO) test --locked --release --test power -- --ignored --nocapture --test-threads 1

test-systemd: ## Run the units under the systemd of Debian 12 and 13, in emulated machines
	tests/emulated/prepare test-systemd $(TARGET)/emulated mke2fs:e2fsprogs
	tests/systemd/prepare bookworm $(TARGET)/emulated/bookworm
	tests/systemd/prepare trixie $(TARGET)/emulated/trixie
	$(CARGO) test --locked --release --test systemd -- --ignored --nocapture --test-threads 1

soak: ## Put a mixed load with faults on the server for 10 minutes (SOAK=1h for an hour)
	HAWK_SOAK=$(SOAK) $(CARGO) test --locked --release --test soak -- --ignored --nocapture

fuzz: ## Fuzz each target for a minute (FUZZ_TIME=600: ten)
	CARGO="$(CARGO)" fuzz/run

lint: ## Check the format, and clippy with warnings as errors
	$(CARGO) fmt --all --check
	$(CARGO) fmt --all --check --manifest-path fuzz/Cargo.toml
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings
	$(CARGO) clippy --locked --manifest-path fuzz/Cargo.toml --target-dir $(TARGET) --all-targets -- -D warnings
	cd benches/peers && $(CARGO) fmt --all --check
	cd benches/peers && $(CARGO) clippy --locked --target-dir $(abspath $(TARGET)) -- -D warnings

deny: ## Check licences, versions and sources of all crates, and advisories (needs cargo-deny)
	$(CARGO) deny --locked check licenses bans sources
	$(CARGO) deny --locked --manifest-path fuzz/Cargo.toml --config $(CURDIR)/deny.toml check bans sources
	@if timeout 30 git ls-remote --quiet $(ADVISORIES) HEAD >/dev/null 2>&1; \
	then $(CARGO) deny --locked check advisories; \
	else echo "SKIPPED: advisories, since $(ADVISORIES) cannot be reached"; fi

fmt: ## Format the source
	$(CARGO) fmt --all
	$(CARGO) fmt --all --manifest-path fuzz/Cargo.toml
	cd benches/peers && $(CARGO) fmt --all

check-binary: build ## Check the release binary for builders' paths and hardening
	.ci/check-binary $(HAWK)

doc: ## Build the API documentation, warnings as errors
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --workspace --no-deps

bench: ## Measure hawk beside its peers, 25 minutes (ARGS="--only classic", "--quick")
	$(CARGO) bench --locked --bench compare -- $(ARGS)

bench-micro: ## Time single operations (ARGS="decode": those with this in their name)
	$(CARGO) bench --locked --bench micro -- $(ARGS)

bench-instructions: ## Count their instructions, compare with the last counts (UPDATE=1: keep these)
	$(CARGO) bench --locked --bench instructions -- $(if $(UPDATE),--update) $(ARGS)

bench-store: ## Measure the store beside Redis and the disk (ARGS="--soak 10m": memory and size)
	$(CARGO) bench --locked --bench store -- $(ARGS)

bench-limits: ## Measure hawk under bad conditions (ARGS="--only storm --rounds 3" for less)
	$(CARGO) bench --locked --bench limits -- $(ARGS)

bench-restart: ## Measure how a new process takes over, 10 minutes (ARGS="--only thousand": 1,000 in a row)
	$(CARGO) bench --locked --bench restart -- $(ARGS)

bench-scale: ## Hold 300,000 connections in an emulated machine (ARGS="--connections 1000000")
	tests/emulated/prepare bench-scale $(TARGET)/emulated
	$(CARGO) bench --locked --bench scale -- $(ARGS)

install: ## Install the binary into cargo's bin directory
	$(CARGO) install --locked --path .

clean: ## Remove what was built
	$(CARGO) clean
