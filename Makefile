# The commands for development. Each works on a fresh clone with Python 3.11 or later, pip and make, and without root.

SHELL := /bin/sh
.SHELLFLAGS := -eu -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
PYTHON := $(BIN)/python
BASE := $(VENV)/.base-installed
DEV := $(VENV)/.dev-installed
GUIDE := $(VENV)/.guide-installed
BROWSER := $(VENV)/.browser-installed
# On a terminal pip shows how far it is; a log is spared that.
QUIET := $(shell [ -t 2 ] || echo --quiet)
PIP_INSTALL := $(PYTHON) -m pip install $(QUIET) --disable-pip-version-check --require-hashes
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --no-header

# The documentation site. The server serves what is below site/.
SITE := site/guide/index.html
DOCUMENTS := mkdocs.yml $(wildcard *.md docs/*.* docs/*/*.* examples/*.* guide/*.py \
    guide/theme/*.* guide/theme/*/*.* guide/theme/*/*/*.*)

VERSIONS := 3.11 3.12 3.13 3.14
MACHINES := x86_64 aarch64

.PHONY: help run check test demo guide bench chaos audit lint format requirements wheels clean

help:
	@echo 'make run           start the server on http://127.0.0.1:8000; Ctrl-C stops it'
	@echo '                   HOST, PORT and DATA_DIR change the address and the data folder'
	@echo 'make demo          record a sound on a temporary server and compare the recording with it (FILE=your.wav)'
	@echo 'make check         run the linters and the fast tests that need no server or database, in a minute'
	@echo 'make test          run the linters and all tests, on SQLite and PostgreSQL'
	@echo 'make lint          run ruff, mypy, import-linter and codespell'
	@echo 'make format        format the code with ruff'
	@echo 'make guide         build the documentation site, which the server serves at /guide'
	@echo 'make bench         measure speed and cost beside references; writes var/bench/bench.md and bench.json'
	@echo 'make chaos         break a production stack under load and check that no audio is lost (MINUTES=3 SEED=7)'
	@echo 'make requirements  compile requirements/*.in with hashes (UPGRADE=1 takes the newest versions)'
	@echo 'make audit         compare the requirements with the known vulnerabilities; queries PyPI'
	@echo 'make wheels        check that every requirement has a wheel for each Python and machine; queries the index'
	@echo 'make clean         remove the virtual environment and caches; recordings are kept'

# With exec, signals to make's child reach the server.
run: $(BASE) $(SITE)
	@exec $(PYTHON) manage.py serve

demo: $(BASE)
	@exec $(PYTHON) manage.py demo $(if $(FILE),--file "$(FILE)")

guide: $(SITE)

bench: $(DEV)
	@$(PYTHON) -m tests.bench
	@exec $(PYTHON) -m tests.bench.limits

chaos: $(DEV)
	@exec $(PYTHON) -m tests.cluster.chaos $(if $(MINUTES),--minutes $(MINUTES)) $(if $(SEED),--seed $(SEED))

# tests/conftest.py tells which tests use services. None is started here, so a test that needs one after all fails.
check: lint
	SERCUESCRIBE_TEST_DATABASE=none $(PYTHON) -m pytest -n 2 --dist loadfile -m 'not services and not slow'

# pytest runs last, so that its summary is the last line. It uses more workers than cores, because tests spend half of
# their time waiting for servers. The files that start the most servers run first.
test: lint $(if $(CHROMIUM),,$(BROWSER))
	SERCUESCRIBE_TEST_DATABASE=postgresql $(PYTHON) -m pytest -n 4 --dist worksteal -m database
	$(PYTHON) -m pytest -n 4 --dist loadfile --no-loadscope-reorder

lint: $(DEV) $(SITE)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	DATA_DIR=$(VENV)/lint $(BIN)/mypy .
	$(BIN)/lint-imports
	$(BIN)/codespell . .env.example

format: $(DEV)
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

requirements: $(DEV)
	$(COMPILE) $(if $(UPGRADE),--upgrade) requirements/base.in -o requirements/base.txt
	$(COMPILE) $(if $(UPGRADE),--upgrade) requirements/dev.in -o requirements/dev.txt
	$(COMPILE) $(if $(UPGRADE),--upgrade) requirements/guide.in -o requirements/guide.txt

# --strict: a requirement that could not be looked up is a failure.
audit: $(DEV)
	$(BIN)/pip-audit --strict --disable-pip --require-hashes --progress-spinner off \
	    -r requirements/base.txt -r requirements/dev.txt -r requirements/guide.txt

# This installs nothing. A requirement without a wheel would need a compiler on the user's machine.
wheels: $(DEV)
	@for version in $(VERSIONS); do for machine in $(MACHINES); do for list in base dev guide; do \
	    $(BIN)/uv pip install --dry-run --quiet --target $(VENV)/wheels --only-binary :all: --require-hashes \
	        --python-version $$version --python-platform $$machine-manylinux_2_28 -r requirements/$$list.txt; \
	done; echo "Python $$version on $$machine: all wheels are there"; done; done

clean:
	rm -rf $(VENV) site .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Any of these works: every requirement has a wheel for each of them (make wheels). INTERPRETER names another first.
$(PYTHON):
	@for candidate in $(INTERPRETER) python3.13 python3.12 python3.14 python3.11 python3; do \
	    if "$$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        echo "Creating $(VENV) with $$candidate" >&2; \
	        exec "$$candidate" -m venv --clear $(VENV); \
	    fi; \
	done; \
	echo 'SercueScribe needs Python 3.11 or later with the venv module. Install python3 (on Debian also python3-venv).' >&2; \
	exit 1

$(BASE): requirements/base.txt | $(PYTHON)
	@echo "Installing $$(grep -c == $<) packages into $(VENV). This happens once and takes a minute or two." >&2
	@$(PIP_INSTALL) -r $<
	@touch $@

# These stay out of the image: the site that they build is all that a server needs.
$(GUIDE): requirements/guide.txt $(BASE)
	@echo "Installing the generator of the documentation into $(VENV)." >&2
	@$(PIP_INSTALL) -r requirements/guide.txt
	@touch $@

# mkdocs.yml makes every warning an error: a link that leads nowhere, a page that the navigation lacks.
$(SITE): $(DOCUMENTS) $(GUIDE)
	@NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build -q
	@touch $@

$(DEV): requirements/dev.txt $(BASE) $(GUIDE)
	@echo "Installing the test requirements into $(VENV). This happens once and takes some minutes." >&2
	@$(PIP_INSTALL) -r requirements/dev.txt
	@touch $@

# This takes a minute at most and happens once. CHROMIUM=PATH selects another browser.
$(BROWSER): tests/e2e/install.py $(DEV)
	$(PYTHON) -m tests.e2e.install $(VENV)/chromium
	@touch $@
