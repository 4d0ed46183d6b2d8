# The words of the README. Everything installs itself: libtorch privately into .libtorch/, Debian packages only where
# we are root (else a message names them). Nothing needs a cargo tool beyond cargo itself.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
CARGO ?= cargo
TARGET := $(or $(CARGO_TARGET_DIR),target)
# cargo-nextest where it is installed: a process per test, and one summary
NEXTEST := $(shell $(CARGO) nextest --version >/dev/null 2>&1 && echo yes)

.PHONY: help demo planner worker libtorch packages bandit test test-planner lint bench bench-service bench-generation bench-train campaign fuzz soak vm parity clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: worker ## fetch libtorch, build, run jobs/quickstart.yaml here, print the table and the report's path
	$(TARGET)/release/bessemer run jobs/quickstart.yaml

planner: ## build the planner alone: no libtorch
	$(CARGO) build --release -p bessemer

worker: libtorch ## build planner and worker
	$(CARGO) build --release -p bessemer -p bessemer-worker

libtorch: ## fetch libtorch into .libtorch/ (resumable, checksummed)
	@python3 scripts/libtorch.py

packages: ## Debian packages that the tests use: a real Slurm, Chromium, shellcheck
	@scripts/setup-packages.sh

bandit: ## the real Bandit in .venv-bandit/ (PyPI); without it its own tests say that they are skipped
	@scripts/bandit.sh || echo 'bandit: not installed; its tests will be skipped'

lint: libtorch ## rustfmt, clippy without warnings, shellcheck, no crate above its place
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets -- -D warnings
	@scripts/lint-rest.sh

# The real-Slurm tests fail, rather than skip, when Slurm is missing: BESSEMER_WITHOUT_SLURM=1 says that you know.
test: packages libtorch bandit ## every test, the real-Slurm ones included
	$(CARGO) build --workspace
ifeq ($(NEXTEST),yes)
	$(CARGO) nextest run --workspace --no-fail-fast
	$(CARGO) test --workspace --doc -q
else
	$(CARGO) test --workspace --no-fail-fast
endif

test-planner: packages ## the tests of everything that needs no libtorch
	$(CARGO) test -p bessemer -p bessemer-plan -p bessemer-cluster -p bessemer-ledger -p bessemer-report \
	  -p bessemer-sandbox -p bessemer-record -p bessemer-generate -p bessemer-corpus -p bessemer-serve

bench: packages ## measure against the peers, in one run: docs/BENCHMARKS.md
	$(CARGO) bench -p bessemer --bench planner
	scripts/profiles.sh
	BESSEMER_NUMPY_PYTHON=$(CURDIR)/.venv-profiles/bin/python BESSEMER_PYTEST_PYTHON=$(CURDIR)/.venv-profiles/bin/python \
	  $(CARGO) run --release -p bessemer-sandbox --example bench -- --write docs/BENCHMARKS.md

bench-service: planner ## requests a second of `sandbox serve` against bare Python, on one core
	python3 tests/bench/service.py $(TARGET)/release/bessemer
	BESSEMER_CGROUP=off python3 tests/bench/service.py $(TARGET)/release/bessemer

bench-generation: libtorch ## the engine and the server against transformers and candle (private venv; needs PyPI)
	tests/parity/setup.sh
	$(CARGO) build --release --manifest-path tests/bench/candle/Cargo.toml --target-dir $(TARGET)/tmp/candle
	$(CARGO) bench -p bessemer-worker --bench generation

bench-train: libtorch ## training against transformers + PEFT and TRL (private venv; needs PyPI)
	tests/parity/setup.sh
	$(CARGO) bench -p bessemer-train --bench training

campaign: packages ## kill the planner at random moments, KILLS times, against a fake Slurm, a real one, and none
	BESSEMER_KILLS=$(or $(KILLS),1000) $(CARGO) test --release -p bessemer-crash -- --nocapture
	BESSEMER_CRASH_KILLS=$(or $(KILLS),100) $(CARGO) test --release -p bessemer --test slurm killed_at_any_moment -- --nocapture
	BESSEMER_DRIVER_KILLS=$(or $(KILLS),300) $(CARGO) test --release -p bessemer --test driver -- --nocapture

fuzz: ## fuzz the formats that come from outside, SECONDS_EACH (600): docs/SANDBOX.md
	scripts/fuzz.sh $(or $(SECONDS_EACH),600)

soak: ## RUNS mixed runs in the sandbox (100,000): does anything grow?
	$(CARGO) run --release -p bessemer-sandbox --example soak $(or $(RUNS),100000)

# Not among `make test`: it downloads a kernel, and takes long where there is no KVM.
vm: ## the sandbox in virtual machines with Debian's kernel: control groups, sites without namespaces (CONFIGS="plain-user ...")
	tests/vm/run.py $(CONFIGS)

parity: libtorch ## compare with transformers and PEFT (private venv; needs PyPI)
	tests/parity/setup.sh
	$(CARGO) test -p bessemer-model --test parity -- --include-ignored
	$(CARGO) test -p bessemer-train --test parity --test trainers

clean: ## remove what was built (not libtorch, not runs)
	$(CARGO) clean
