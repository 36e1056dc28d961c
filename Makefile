PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
WORKDIR ?= runs/dcgan
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup run test test-all lint format docs bench

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(VENV)/.ready ## Make .venv and install everything, at the tested versions

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[test]' --constraint constraints.txt
	@touch $@

run: setup ## Train a DCGAN on bundled digits (minutes) and evaluate it, or ARGS="--config=..." for another run
	$(BIN)/python -m gan.main $(or $(ARGS),--config=configs/dcgan.py --workdir=$(WORKDIR))
	$(if $(ARGS),,$(BIN)/python -m gan.main --mode=evaluate --workdir=$(WORKDIR))

test: setup ## Run the tests (minutes)
	$(BIN)/python -m pytest -q -n 2 --dist worksteal $(ARGS)

test-all: setup ## Run the tests, the long ones too
	$(BIN)/python -m pytest -q -n 2 --dist worksteal -m '' $(ARGS)

lint: setup ## Check style, formatting and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup ## Fix style and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup ## Build the documentation as a site, in site/
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[docs]' --constraint constraints.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build  # --quiet would silence what `strict` counts

bench: setup ## Benchmark step times, PyTorch, scaling and the cost of a run (minutes; ARGS=--full: an hour or more)
	$(BIN)/python -m experiments.benchmarks $(ARGS)
