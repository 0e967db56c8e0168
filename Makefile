# Each target sets up what it needs; a second run finds it done.
SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help

UV_VERSION := 0.13.9
PYTHON ?= python3.11
VENV := .venv
# Test processes. Each may start servers of its own, so this is not the number of cores.
WORKERS ?= 2
BIN := $(VENV)/bin
UV := .uv/bin/uv
READY := $(VENV)/.ready

.PHONY: help setup demo test cluster cluster-demo lint bench docs chart proto clean lock

help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## Make the environment from the lock

$(UV):
	@$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

$(READY): requirements.lock pyproject.toml | $(UV)
	@echo "installing the packages, about 7 GB, once" >&2
	test -d $(VENV) || $(UV) venv --quiet --python $(PYTHON) $(VENV)
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python \
		--require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

demo: setup ## Play the whole loop on real flights of 2013
	@$(BIN)/tidemill demo --into .tidemill/demo

test: setup ## Pass the tests
	@# Without these, the tests that need them say why they skip.
	$(BIN)/python -m tests.cluster.build >/dev/null || true
	$(BIN)/python -m tests.cluster.images --tested >/dev/null || true
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

cluster: setup ## Run a Kubernetes cluster of local processes until Ctrl-C
	@$(BIN)/python -m tests.cluster

cluster-demo: setup ## Promote a model and roll a bad one back on that cluster, with real traffic
	@$(BIN)/python -m tests.cluster.demo

lint: setup ## ruff, mypy --strict, import-linter
	@$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup ## Measure against baselines in the same run
	@$(BIN)/python -m benchmarks

docs: setup ## Build the site, links checked
	@$(BIN)/mkdocs build --strict

chart: setup ## Write the chart's CRDs, schema and table of values
	@$(BIN)/python -m tidemill.adapters.kubernetes.schema charts/tidemill/crds
	$(BIN)/python -m tests.charts.reference

proto: setup ## Compile the messages of the gRPC endpoint
	@cd src/tidemill/server/rpc
	$(CURDIR)/$(BIN)/python -m grpc_tools.protoc -I. \
		--descriptor_set_out=open_inference.binpb open_inference.proto

lock: $(UV) ## Resolve pyproject.toml into requirements.lock (versions and hashes, no addresses)
	@$(UV) pip compile pyproject.toml --extra dev --generate-hashes --python-version 3.11 \
		--no-emit-index-url --no-header --quiet --output-file requirements.lock

clean: ## Remove everything that was made here
	@rm -rf $(VENV) .uv .tidemill .dvc/cache .dvc/tmp data site dist build
	rm -rf .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .coverage
