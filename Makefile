# Each target sets up its requirements in .venv first; only Python 3.11 or newer and make must be installed by hand.
# PYTHON=… selects the interpreter, JOBS=… the test processes (one for each core), TESTS=… further options of pytest.
# Ports and folders are settings: docs/settings.md.
.DEFAULT_GOAL := help
.PHONY: help demo up status down test test-unit test-full coverage lint lint-types lint-texts lint-collection check docs site lock audit bench screenshots chaos setup-runtime setup-test setup-bench

BIN := .venv/bin
JOBS ?= $(shell nproc)
# Integration tests wait a part of their time: with one and a half processes for each core, the cores were idle for a
# fifth of the run. Not in the full tier: each process starts an installation for its stories.
MORE_JOBS = $(shell expr 2 \* $(JOBS))
# Tests of the source tree and the documents: `make lint` runs them.
LINTS := tests/test_architecture.py tests/test_docs.py
PYTEST := $(BIN)/pytest $(LINTS:%=--ignore=%)
# The customer of the demonstration, as its marketplace event names it.
TENANT := acme-corp-12345
ORGANIZATION := ACME Corporation
REGION := eu-west-1
# Its first service, connected by the demonstration.
SERVICE := customer-records
SERVICE_FOLDER := $(or $(OPENKCM_STATE_DIR),.openkcm)/services/$(SERVICE)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

demo: setup-runtime ## start everything on loopback, enable ACME Corporation and encrypt a record with one of its services
	@$(BIN)/python -m devstack up
	@$(BIN)/python -m devstack enable $(TENANT) --organization "$(ORGANIZATION)" --region $(REGION) --wait
	@$(BIN)/openkcmctl service connect $(TENANT) --kind microservice --name $(SERVICE) --out $(SERVICE_FOLDER)
	@$(BIN)/openkcmctl service smoke-test $(SERVICE_FOLDER)
	@$(BIN)/python -m devstack status

up: setup-runtime ## start everything on loopback
	@$(BIN)/python -m devstack up

status: setup-runtime ## show the components and their addresses
	@$(BIN)/python -m devstack status

down: setup-runtime ## stop everything that demo started and keep its data
	@$(BIN)/python -m devstack down

test-unit: setup-test ## run the tests that need no server, network or pause
	@$(PYTEST) -n $(JOBS) -m unit $(TESTS)

test: setup-test ## run the unit and integration tests and the short end-to-end stories, as CI does
	@$(PYTEST) -n $(MORE_JOBS) -m "not full" $(TESTS)

test-full: test ## run every test: all stories, mutations, crash matrices, the model, a short chaos
	@$(PYTEST) -n $(JOBS) -m full $(TESTS)

coverage: setup-test ## run every test with line and branch coverage of the product and its processes (slow)
	@$(BIN)/coverage erase
	@$(BIN)/coverage run -m pytest -n $(JOBS) $(TESTS)
	@$(BIN)/coverage combine --quiet
	@$(BIN)/coverage json --quiet -o coverage.json
	@$(BIN)/python -m scripts.coverage_table coverage.json
	@$(BIN)/coverage report --include="core/*,config/*,compliance/reconciliation/model.py,compliance/reconciliation/ledger.py,compliance/coverage/*" --fail-under=100

lint: setup-test ## check format, lint, words, types, imports and documents
	@$(MAKE) --no-print-directory --jobs=2 --output-sync lint-types lint-texts $(if $(CI),lint-collection)

lint-types:
	@$(BIN)/mypy

lint-texts:
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/lint-imports
	@$(BIN)/python -m scripts.words
	@git log -1 --format=%B 2>/dev/null | $(BIN)/python -m scripts.words --commit -
	@$(BIN)/pytest -q -n 0 $(LINTS)

# In a new checkout nothing is compiled, and each process of `make test` would compile all tests and packages. Beside
# mypy, which takes longest, one does it.
lint-collection:
	@found=$$($(PYTEST) -qq -n 0 --collect-only -m "not full") || { echo "$$found"; exit 1; }

check: lint test ## lint and test, as CI does

docs: setup-test ## generate the generated documents again
	@$(BIN)/python -m scripts.generate_docs

lock: setup-test ## write the hash-locked requirements again (UPGRADE=1 takes newer releases)
	@UPGRADE=$(UPGRADE) scripts/lock.sh

audit: setup-test ## look up known vulnerabilities of the locked packages (asks a public service)
	@$(BIN)/uv tool run --from 'pip-audit>=2.9,<3' pip-audit --strict --progress-spinner off --disable-pip \
		--require-hashes -r requirements/production.lock -r requirements/test.lock

bench: setup-bench ## run the benchmarks; JSON files and plots are written to tests/benchmarks/results
	@$(BIN)/python -m tests.benchmarks

site: setup-test ## build the documentation site into build/site
	@$(BIN)/mkdocs build --quiet --strict

screenshots: setup-test ## take screenshots of every page of the dashboard into docs/screenshots
	@$(BIN)/python -m scripts.screenshots

chaos: setup-test ## kill every process during every operation, run all drills, extend the model search, break every isolation control (long)
	@$(BIN)/pytest tests/chaos tests/model tests/mutation tests/production --long -o faulthandler_timeout=7200 -n $(JOBS)

setup-runtime:
	@scripts/setup.sh runtime

setup-test:
	@scripts/setup.sh test

setup-bench:
	@scripts/setup.sh bench
