# crisp: `make help` lists the targets. Everything is made below .venv and beside the
# sources (ignored by git); `make clean` removes it. Tests and pods need root.

SHELL := /bin/sh
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --no-input
PYTEST := $(BIN)/python -m pytest
INPUTS := pyproject.toml hatch_build.py $(wildcard proto/*.proto) runtime/launch.c runtime/pause.c
TIERS := tests/kernel tests/cri
LONG := tests/cri/test_bench.py tests/cri/test_load.py
NODES := tests/cri/test_other_nodes.py

.DEFAULT_GOAL := help
.PHONY: help install install-dev run check test test-unit test-kernel test-cri test-load test-attacks test-failpoints test-network test-kubelet guest fuzz conformance conformance-full bench lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(BIN)/.installed ## install crisp into .venv, from the lock file with hashes
	@echo "crisp is installed: $(CURDIR)/$(BIN)/crisp"

install-dev: $(BIN)/.installed-dev ## also the tools of tests and checks

run: $(BIN)/.installed ## install, then show one pod running; Ctrl-C removes it
	@$(BIN)/crisp demo

check: $(BIN)/.installed-dev ## style, types, layers, and that each test module covers its module
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(PYTEST) -q tests/unit/test_tree.py
	$(BIN)/python tests/coverage_alone.py

test: $(BIN)/.installed-dev ## all tests that need neither Go nor a network (as root)
	@deploy/install-deps --test
	@log=$$(mktemp) && trap 'kill $$unit 2>/dev/null; rm -f "$$log"' EXIT && trap 'exit 130' INT TERM; failed=; \
	$(PYTEST) tests/unit >"$$log" 2>&1 & unit=$$!; \
	for tier in $(TIERS); do echo "$$tier:"; $(PYTEST) $$tier $(LONG:%=--ignore=%) $(NODES:%=--ignore=%) || failed="$$failed $$tier"; done; \
	wait $$unit || failed=" tests/unit$$failed"; echo "tests/unit, beside them:"; cat "$$log"; \
	if [ -n "$$failed" ]; then echo "failed:$$failed"; exit 1; fi

test-unit: $(BIN)/.installed-dev ## the tests that need no root
	$(PYTEST) tests/unit

test-kernel: $(BIN)/.installed-dev ## the tests with real namespaces, mounts and cgroups (as root)
	@deploy/install-deps --test
	$(PYTEST) tests/kernel

test-cri: $(BIN)/.installed-dev ## the tests with a real daemon, spoken to over gRPC (as root)
	@deploy/install-deps --test
	$(PYTEST) tests/cri

test-load: $(BIN)/.installed-dev ## 500 requests at once, and a small run of the bench (as root)
	@deploy/install-deps --test
	$(PYTEST) $(LONG)

test-attacks: $(BIN)/.installed-dev ## what images, containers and requests may try; REQUESTS=5000 for as many new random ones (as root)
	@deploy/install-deps --test
	$(if $(REQUESTS),CRISP_RANDOM_REQUESTS=$(REQUESTS)) $(PYTEST) $(if $(REQUESTS),--timeout 3600) tests/security

test-failpoints: $(BIN)/.installed-dev ## fail, kill and cancel at every step of every operation (as root, 12 minutes)
	@deploy/install-deps --test
	$(PYTEST) tests/failpoints

test-network: $(BIN)/.installed-dev ## daemons as nodes; 60 pods up and down beside a killed daemon and failing plugins, PODS=200 ROUNDS=3 for more (as root)
	@deploy/install-deps --test
	$(if $(PODS),CRISP_SOAK_PODS=$(PODS)) $(if $(ROUNDS),CRISP_SOAK_ROUNDS=$(ROUNDS)) $(PYTEST) -s tests/soak $(NODES)

test-kubelet: $(BIN)/.installed-dev ## static pods under the published kubelet, built by Go (as root, 5 minutes and the build)
	@deploy/install-deps --test
	$(BIN)/python -m tests.cluster.kubelet
	$(PYTEST) tests/cluster

guest: $(BIN)/.installed-dev ## crisp as a service of systemd, with cgroup v2 alone, in an emulated machine (as root, needs apt)
	@deploy/install-deps --guest
	$(BIN)/python -m tests.guest $(ARGS)

fuzz: $(BIN)/.installed-dev ## mutated bytes for the parsers, 20 s each; ARGS="spdy --seconds 60" for one
	$(BIN)/python -m tests.fuzz $(or $(ARGS),all)

conformance: $(BIN)/.installed-dev ## the published critest, crictl, client-go and CNI test plugin, built by Go (as root)
	@deploy/install-deps --test
	$(BIN)/python tests/conformance/crictl_smoke.py
	$(BIN)/python tests/conformance/streaming.py
	$(BIN)/python tests/conformance/crictl_streaming.py
	$(BIN)/python tests/conformance/cni_programs.py
	$(BIN)/python -m tests.conformance.critest --document docs/conformance.md $(ARGS)

conformance-full: $(BIN)/.installed-dev ## critest serial and parallel, over SPDY and WebSocket, three times (as root)
	@deploy/install-deps --test
	$(BIN)/python -m tests.conformance.critest --full $(ARGS)

bench: $(BIN)/.installed-dev ## how long things take; ARGS="--endpoint A --vs B" compares (as root)
	$(BIN)/python -m tests.bench $(ARGS)

lock: ## write the lock files anew with the newest versions allowed
	deploy/lock

clean: ## remove .venv, generated code and caches
	rm -rf .venv build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .coverage .coverage.* .coverage_alone
	rm -f proto/*_pb2.py proto/*_pb2.pyi proto/*_pb2_grpc.py proto/*_pb2_grpc.pyi runtime/launch runtime/pause
	find cri network proto runtime tests -type d -name __pycache__ -prune -exec rm -rf {} +

# The packages come from the lock file; then crisp itself, in place, built by what the lock
# file brought, so that nothing is fetched that has no hash. Python compiles what it imports;
# compiling the rest as well takes a quarter of the whole installation.
$(BIN)/.installed: deploy/requirements.lock $(INPUTS)
	@PYTHON='$(PYTHON)' deploy/install-deps
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@echo "installing Python packages from $<"
	@$(PIP) install --quiet --no-compile --require-hashes --only-binary :all: -r $<
	@$(PIP) install --quiet --no-index --no-deps --no-build-isolation --editable .
	@touch $@

$(BIN)/.installed-dev: deploy/requirements-dev.lock $(BIN)/.installed
	@echo "installing the tools of tests and checks from $<"
	@$(PIP) install --quiet --require-hashes --only-binary :all: -r $<
	@touch $@
