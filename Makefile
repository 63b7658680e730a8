# The commands a contributor needs; `make help` lists them. A fresh Debian-like machine with Python 3.11
# or newer is enough: .venv is made once, and again filled only when pyproject.toml or constraints.txt change.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Tests that compute run two at a time, in whole files and in order, so that what a file's tests share is made
# once and the longest begin first. Those that play in real time have the machine for themselves.
QUICK := tests/golden tests/unit
IN_PAIRS := -n 2 --dist loadfile --no-loadscope-reorder
REAL_TIME := tests/protocol tests/network tests/integration tests/browser tests/chaos

# pip, Ray and Chromium keep files in HOME; some containers give none.
ifeq ($(strip $(HOME)),)
export HOME := $(CURDIR)/$(VENV)/home
endif
export RAY_USAGE_STATS_ENABLED := 0
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: help run test check lint types imports bench soak hearing doctor audit clean

help: ## list the commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /\1\t/' | expand -t 10

run: $(VENV)/.serving ## serve http://localhost:8765 on this machine
	exec $(BIN)/serve run --address local configs/dev.yaml

test: $(VENV)/.testing ## set up everything and run lint, types and every test
	scripts/system-packages
	$(BIN)/avatar tools || echo "warning: the tests that find faces in photos are skipped" >&2
	$(MAKE) --no-print-directory lint types imports
	$(BIN)/python -m pytest -p tests.leaving $(IN_PAIRS) $(QUICK)
	$(BIN)/python -m pytest -p tests.leaving $(REAL_TIME)

check: $(VENV)/.testing lint types imports ## what to run before a commit: lint, types, unit tests
	$(BIN)/python -m pytest -p tests.leaving $(IN_PAIRS) tests/unit

lint: $(VENV)/.testing
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.testing
	$(BIN)/mypy

imports: $(VENV)/.testing
	$(BIN)/lint-imports

bench: $(VENV)/.testing ## measure the figures of the README's table on this machine
	$(BIN)/python -m tests.benchmarks

soak: $(VENV)/.testing ## hold mixed sessions for three minutes; nothing may grow or drift apart
	$(BIN)/python -m tests.benchmarks.soak --minutes 3

hearing: $(VENV)/.serving ## train the portrait's hearing and examine it: build/hearing/report.md
	$(BIN)/python -m serve_app.training make
	$(BIN)/python -m serve_app.training train
	$(BIN)/python -m serve_app.training export
	$(BIN)/python -m serve_app.training evaluate

doctor: $(VENV)/.serving ## look for what would keep this machine from serving
	$(BIN)/avatar doctor

audit: ## compare the pinned versions with known vulnerabilities; needs the internet
	PYTHON=$(PYTHON) scripts/audit $(VENV)/audit

clean: ## remove .venv and caches; recordings stay
	rm -rf $(VENV) *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache test-artifacts
	find serve_app tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	mkdir -p $(VENV)/home
	PYTHON=$(PYTHON) scripts/create-venv $(VENV)

$(VENV)/.serving: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable .
	@touch $@

$(VENV)/.testing: pyproject.toml constraints.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	@touch $@ $(VENV)/.serving
