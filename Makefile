# Every verb works in a fresh clone: the Python environment (.venv) and the tools are installed when first needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check
BUF := node_modules/.bin/buf
MODELS ?= models
# ONNX Runtime reports its use to its makers unless told not to before it is imported.
export ORT_DISABLE_TELEMETRY := 1

.DEFAULT_GOAL := help
.PHONY: help demo demo-uses demo-memory test serve lint proto bench bench-quick chaos clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(VENV)/.demo ## stream a held-out electrocardiogram through the server, and show what the other models do
	$(BIN)/python examples/demo.py

demo-uses: $(VENV)/.demo ## the five uses at length: time series, text, sentiment, translation, speech (fetches 47 MB)
	-$(BIN)/python examples/programs/fetch.py
	$(BIN)/python examples/demo_uses.py

demo-memory: $(VENV)/.demo ## tell a session something, kill its server, and ask it: a memory that survives
	$(BIN)/python examples/demo_memory.py

test: $(VENV)/.dev ## run every test, on all cores (LONG=--long: promises on many more random cases)
	scripts/apt-packages
	-$(BIN)/python -m benchmarks.fetch_perf_analyzer  # without it some tests are skipped and say so
	-$(BIN)/python examples/programs/fetch.py  # likewise: 47 MB of models and recordings that others published
	-$(BIN)/python examples/sentiment/fetch.py  # 3 MB of sentences
	-$(BIN)/python examples/speech/fetch.py  # 18 MB of recordings; espeak-ng and flite
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist worksteal $(LONG)

serve: $(VENV)/.demo ## serve the shipped models on 127.0.0.1:8101, metrics on 127.0.0.1:8102 (MODELS=DIR for others)
	$(BIN)/stepstream-server serve --models $(MODELS) --listen 127.0.0.1:8101 --metrics 127.0.0.1:8102

lint: $(VENV)/.dev $(BUF) ## check style, types, import directions and the contract
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BUF) lint
	$(BUF) format --diff --exit-code
	scripts/check-generated
	$(BIN)/python scripts/check_breaking.py

proto: $(VENV)/.dev ## generate the Python modules of the contract from proto/
	scripts/generate-proto

bench: $(VENV)/.dev ## measure the server against its kernel and a bare echo (a quarter of an hour, on a quiet machine)
	-$(BIN)/python -m benchmarks.fetch_perf_analyzer  # without it some rows are left out and the result says so
	$(BIN)/python -m benchmarks

bench-quick: $(VENV)/.dev ## the same in two minutes, rougher
	-$(BIN)/python -m benchmarks.fetch_perf_analyzer
	$(BIN)/python -m benchmarks --quick

chaos: $(VENV)/.dev ## kill workers and servers under load, and compare every output with an undisturbed run (up to 10 minutes)
	$(BIN)/python -m benchmarks.chaos

clean: ## remove the environment and everything built
	rm -rf $(VENV) node_modules build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# What a user of the demo needs: no torch, so that trying it out does not download gigabytes.
$(VENV)/.demo: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[cli,server,examples]'
	$(BIN)/stepstream-server compile
	touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet --constraint constraints.txt --editable '.[cli,server,torch,examples,dev]'
	$(BIN)/stepstream-server compile
	touch $@ $(VENV)/.demo

$(BUF): package.json package-lock.json
	npm install --no-save --ignore-scripts --silent
	touch $@
