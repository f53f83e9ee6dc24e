# What this project can do for you. `make demo` and `make test` need nothing but Python 3.11 or newer, pip and make.
.DEFAULT_GOAL := help
.PHONY: help demo test servers lint types contracts docs bench chaos conformance clean

# The newest thing that works is not wanted: 3.11 is what CI runs. `PYTHON=… make test` takes another.
PYTHON ?= $(shell for each in python3.11 python3.12 python3.13 python3; do \
	$$each -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
# A fresh environment has the pip that came with Python; dependency groups need 25.1.
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

help: ## show this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(VENV)/.demo ## a small shop, its worker and what happens inside, on a broker in a file
	@$(BIN)/python scripts/demo.py

test: $(VENV)/.dev servers ## every test
	$(BIN)/python -m pytest

servers: ## install redis-server and rabbitmq-server where they are missing and may be installed
	@sh scripts/servers.sh

lint: $(VENV)/.dev ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

contracts: $(VENV)/.dev ## who may import whom
	$(BIN)/lint-imports

types: $(VENV)/.dev ## mypy, strict
	$(BIN)/mypy

docs: $(VENV)/.dev ## the documentation, into docs/_build/html
	$(BIN)/sphinx-build -W --keep-going -q -b html docs docs/_build/html

bench: $(VENV)/.dev ## benchmarks against limits and peers, three quarters of an hour; BENCH=--short: a few minutes
	$(BIN)/python benchmarks/states.py --check
	$(BIN)/python benchmarks/actors.py --check
	$(BIN)/python benchmarks/embedded.py
	$(BIN)/python benchmarks/brokers.py
	$(BIN)/python benchmarks/ownership.py --peer ours
	$(BIN)/python benchmarks/pipelines.py --check
	$(BIN)/python benchmarks/pipelines_vs_celery.py --check
	$(BIN)/python benchmarks/everything.py --check $(BENCH)

# Half an hour. `make chaos PEER=celery` does the storm to genuine Celery; `CHAOS=` takes more (python -m tests.chaos --help).
PEER ?= ours
chaos: $(VENV)/.dev servers ## kill, stop and cut off real workers and brokers for half an hour; PEER=celery: genuine Celery's
	$(BIN)/python -m tests.chaos $(CHAOS) --peer $(PEER)
	test "$(PEER)" = celery || RELIABILITY=full $(BIN)/python -m pytest tests/reliability tests/remote tests/pipelines/test_examples.py tests/actors/test_soak.py
	test "$(PEER)" = celery || RELIABILITY=full $(BIN)/python -m pytest -m heavy --ignore tests/reliability --ignore tests/remote

# Celery's own tests from its source distribution: `make conformance SUITE=unit`, `SUITE=t/integration/test_loader.py`,
# `CONFORMANCE="--broker rabbitmq"`; `SUITE=libraries`: libraries from PyPI; python -m tests.conformance --help has the rest.
SUITE ?= integration
conformance: $(VENV)/.dev servers ## Celery's own test suite against ours, beside what genuine Celery passes; SUITE=integration|unit|libraries|path
	$(BIN)/python -m tests.conformance $(SUITE) $(CONFORMANCE)
	test "$(SUITE)" != integration || MIXED_CHORDS=200 $(BIN)/python -m pytest -q -s tests/wire/test_mixed_chords.py

clean: ## the environment and everything that was built
	rm -rf $(VENV) docs/_build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

$(VENV)/.pip:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed; say where: PYTHON=/path/to/python make …" >&2; exit 1; }
	@echo "setting up $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) install --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.demo: $(VENV)/.pip pyproject.toml
	@test -e $(VENV)/.dev || { echo "installing Jumpstarter and what it runs on"; $(PIP) install --editable .; }
	@touch $@

$(VENV)/.dev: $(VENV)/.pip pyproject.toml
	@echo "installing Jumpstarter and what its tests, checks and documentation need"
	@$(PIP) install --group test --group lint --group docs --editable .
	@touch $@ $(VENV)/.demo
