# The workflow's verbs. Each works on a fresh clone with Python 3.11 or later, pip and make; none needs root.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
BASE := $(VENV)/.base-installed
DEV := $(VENV)/.dev-installed
BROWSER := $(VENV)/.browser-installed
# On a terminal pip shows how far it is; a log is spared that.
QUIET := $(shell [ -t 2 ] || echo --quiet)
PIP_INSTALL := $(PYTHON) -m pip install $(QUIET) --disable-pip-version-check --require-hashes
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

VERSIONS := 3.11 3.12 3.13 3.14
MACHINES := x86_64 aarch64

.PHONY: help run test demo bench chaos lint format requirements wheels clean

help:
	@echo 'make run           serve on http://127.0.0.1:8000 (HOST, PORT and DATA_DIR move it); Ctrl-C stops it'
	@echo 'make test          lint, types, import rules and all tests, on SQLite and PostgreSQL'
	@echo 'make demo          record a sound file (FILE=your.wav) and compare the recording with it'
	@echo 'make bench         measure'
	@echo 'make chaos         do the worst to a production stack under load, then compare everything with what was sent (MINUTES=3, SEED=)'
	@echo 'make lint          ruff, mypy and import-linter'
	@echo 'make format        let ruff rewrite the code'
	@echo 'make requirements  compile requirements/*.in with hashes (UPGRADE=1: to the newest versions)'
	@echo 'make wheels        see that every requirement has a wheel for every Python and machine; asks the package index'
	@echo 'make clean         remove the virtual environment and every cache; recordings stay'

# exec: signals sent to make's child are the server's.
run: $(BASE)
	@exec $(PYTHON) manage.py serve

demo: $(BASE)
	@exec $(PYTHON) manage.py demo $(if $(FILE),--file "$(FILE)")

bench: $(DEV)
	@$(PYTHON) -m tests.bench
	@$(PYTHON) -m tests.bench.postgres
	@$(PYTHON) -m tests.bench.length
	@exec $(PYTHON) -m tests.bench.concatenation

chaos: $(DEV)
	@exec $(PYTHON) -m tests.cluster.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

# pytest comes last, so that its closing line does. More workers than cores: tests wait for servers half of the time.
test: lint $(if $(CHROMIUM),,$(BROWSER))
	SERCUESCRIBE_TEST_DATABASE=postgresql $(PYTHON) -m pytest -n 4 --dist worksteal -m database
	$(PYTHON) -m pytest -n 4 --dist worksteal

lint: $(DEV)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	DATA_DIR=$(VENV)/lint $(BIN)/mypy .
	$(BIN)/lint-imports

format: $(DEV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

requirements: $(DEV)
	$(COMPILE) $(if $(UPGRADE),--upgrade) requirements/base.in -o requirements/base.txt
	$(COMPILE) $(if $(UPGRADE),--upgrade) requirements/dev.in -o requirements/dev.txt

# Nothing is installed; a requirement without a wheel would need a compiler on somebody's machine.
wheels: $(DEV)
	@for version in $(VERSIONS); do for machine in $(MACHINES); do for list in base dev; do \
	    $(BIN)/uv pip install --dry-run --quiet --target $(VENV)/wheels --only-binary :all: --require-hashes \
	        --python-version $$version --python-platform $$machine-manylinux_2_28 -r requirements/$$list.txt; \
	done; echo "Python $$version on $$machine: all wheels are there"; done; done

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Any of them will do: every requirement has a wheel for each (make wheels).
$(PYTHON):
	@for candidate in python3.13 python3.12 python3.14 python3.11 python3; do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "making $(VENV) with $$candidate" >&2; \
	        exec "$$candidate" -m venv --clear $(VENV); \
	    fi; \
	done; \
	echo 'SercueScribe needs Python 3.11 or later with its venv module: install python3 (Debian: python3-venv).' >&2; \
	exit 1

$(BASE): requirements/base.txt | $(PYTHON)
	@echo "installing $$(grep -c == $<) packages into $(VENV); that is done once and takes a minute or two" >&2
	@$(PIP_INSTALL) -r $<
	@touch $@

$(DEV): requirements/dev.txt $(BASE)
	@echo "installing what the tests need into $(VENV); that is done once and takes some minutes" >&2
	@$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

# A minute's work at most, and done once; CHROMIUM=PATH names a browser to test with instead.
$(BROWSER): tests/e2e/install.py $(DEV)
	$(PYTHON) -m tests.e2e.install $(VENV)/chromium
	@touch $@
