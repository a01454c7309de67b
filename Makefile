# All commands run in a virtual environment that make creates. You need nothing but make and Python 3.11 or newer.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PLUGINS := plugins/sqlite plugins/redis plugins/mongodb
PROJECTS := pyproject.toml $(PLUGINS:%=%/pyproject.toml)
EDITABLE := --editable . $(PLUGINS:%=--editable %)
OR_SAY_SO := || { echo "cannot install the Python packages: check that this machine can reach PyPI"; exit 1; }
PLUGIN_GROUPS := $(PLUGINS:%=--group %/pyproject.toml:test)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help serve servers javascript test clients conformance chaos check bench lowest format clean

help:  ## Show this list of commands
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "make %-11s %s\n", $$1, $$2}'

$(BIN)/python:
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11))" || { echo "Python 3.11 or newer is needed: run make PYTHON=/path/to/python"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1" $(OR_SAY_SO)

$(VENV)/.serve: pyproject.toml | $(BIN)/python
	@$(BIN)/python -m pip install --quiet --editable . $(OR_SAY_SO)
	@touch $@

$(VENV)/.test: $(PROJECTS) | $(BIN)/python
	@$(BIN)/python -m pip install --quiet $(EDITABLE) --group test $(PLUGIN_GROUPS) $(OR_SAY_SO)
	@touch $@

$(VENV)/.dev: $(PROJECTS) | $(BIN)/python
	@$(BIN)/python -m pip install --quiet $(EDITABLE) --group dev $(PLUGIN_GROUPS) $(OR_SAY_SO)
	@touch $@

serve: $(VENV)/.serve  ## Install mcp-tornado and serve the demo at http://127.0.0.1:8000/mcp
	@exec $(BIN)/mcp-tornado serve

servers:
	@command -v redis-server >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes redis-server; } || \
		echo "redis-server is missing and cannot be installed from here: tests that need it are skipped"

javascript: $(VENV)/.test
	@$(BIN)/python -m tests.javascript.tools || echo "the JavaScript packages are missing: tests that need them are skipped"

test: servers javascript  ## Install what the tests need, servers included, and run the tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

$(VENV)-mcp1/.installed: | $(BIN)/python
	@$(PYTHON) -m venv $(VENV)-mcp1 && $(VENV)-mcp1/bin/python -m pip install --quiet "mcp<2" && touch $@ || \
		echo "cannot install the Python SDK 1.x: check that this machine can reach PyPI; its test is skipped"

clients: servers javascript $(VENV)-mcp1/.installed  ## Run all clients of other authors against several processes
	$(BIN)/python -m pytest tests/clients -m ""

conformance: servers javascript  ## Run the official conformance suite, with the SDK's own server as a control
	@$(BIN)/python -m tests.conformance

chaos: servers $(VENV)/.test  ## Kill, stop and drain processes under load, and report what is lost
	$(BIN)/python -m tests.chaos $(CHAOS)

check: $(VENV)/.dev  ## Check format, lint rules, types and imports between layers
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports

bench: $(VENV)/.dev  ## Measure memory, sweeps, validation, stores, several processes, and calls per second beside the SDK's
	$(BIN)/python -m benchmarks

lowest: servers | $(BIN)/python  ## Run the tests with the lowest versions that pyproject.toml allows
	$(PYTHON) -m venv $(VENV)-lowest
	$(VENV)-lowest/bin/python -m pip install --quiet --upgrade "pip>=25.1" uv
	$(VENV)-lowest/bin/uv pip install --quiet --python $(VENV)-lowest/bin/python --resolution lowest-direct $(EDITABLE)
	$(VENV)-lowest/bin/python -m pip install --quiet --group test $(PLUGIN_GROUPS)
	$(VENV)-lowest/bin/python -m pytest

format: $(VENV)/.dev  ## Format the code and apply ruff's automatic fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## Remove the virtual environments and the files that tools create
	rm -rf $(VENV) $(VENV)-lowest $(VENV)-mcp1 .pytest_cache .ruff_cache .hypothesis .import_linter_cache build dist
