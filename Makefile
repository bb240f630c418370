# PiSync's commands. `make` alone lists them.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

# A simulated fleet that `make run` runs once beside the made-up one; 0: none.
DEVICES ?= 0
EVENTS  ?= 40
SEED    ?= 1
# 0: an empty system, without the made-up fleet.
DEMO    ?= 1

# The rounds of `make chaos`, with TLS and access control where SECURE is 1; its seed is drawn where SEED is not given.
ROUNDS ?= 5
SECURE ?= 0

# Tests start hundreds of programs, each of which would compile its modules anew where Python may not keep them.
CACHED := env -u PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup system browser devices proxies run test check chaos scale year bench capacity lock sbom clean

help: ## List the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.ready ## Get all that is needed: .venv from locks/dev.txt, mosquitto, redis-server

$(VENV)/.ready: pyproject.toml locks/dev.txt | system
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "PiSync needs Python 3.11 or later, and '$(PYTHON)' is: $$($(PYTHON) --version 2>&1)" >&2; \
	  echo "Name another one: make $(MAKECMDGOALS) PYTHON=/path/to/python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r locks/dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

# The packages of the system; at once when nothing is missing.
system:
	@PYTHON=$(PYTHON) sh scripts/system-packages

# Likewise, with Chromium, which only the tests of the pages need.
browser:
	@PYTHON=$(PYTHON) sh scripts/system-packages browser

# Likewise, with HAProxy, for the tests of its configurations.
proxies:
	@PYTHON=$(PYTHON) sh scripts/system-packages scale

devices: $(VENV)/node/.ready ## Get what the tests of examples/ need: node with mqtt.js, gcc, libmosquitto

$(VENV)/node/.ready: examples/package.json examples/package-lock.json | setup
	@PYTHON=$(PYTHON) sh scripts/system-packages devices
	@mkdir -p $(VENV)/node && cp examples/package.json examples/package-lock.json $(VENV)/node
	cd $(VENV)/node && npm ci --loglevel=error --no-audit --no-fund --ignore-scripts
	@touch $@

run: setup ## Run everything here with a made-up fleet, and stay up (DEMO=0: empty; DEVICES=500 EVENTS=400 SEED=1: more)
	@exec $(BIN)/pisync up --data .pisync $(if $(filter 0,$(DEMO)),--no-demo,--demo) \
	  --devices $(DEVICES) --events $(EVENTS) --seed $(SEED)

test: browser devices proxies ## Run the tests, four at a time: most wait for servers
	@$(CACHED) PYTEST=$(BIN)/pytest sh scripts/test

check: setup ## Check format, lint, walls and types
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/lint-imports --no-cache --no-logo
	$(BIN)/mypy

chaos: setup ## Faults in a running stack, judged by an auditor (ROUNDS=5 SECURE=0 SEED=drawn)
	@$(BIN)/python -m tests.chaos --rounds $(ROUNDS) $(if $(filter 1,$(SECURE)),--secure) $(if $(filter-out file,$(origin SEED)),--seed $(SEED))

scale: setup proxies ## Long tests with many real servers, which `make test` leaves out
	$(CACHED) $(BIN)/pytest tests/scale

year: setup ## A year of a fleet, and whether all answers are true (DEVICES=2000 SEED=drawn)
	@$(BIN)/python -m tests.year $(if $(filter-out file,$(origin SEED)),--seed $(SEED)) \
	  $(if $(filter-out file,$(origin DEVICES)),--devices $(DEVICES))

bench: setup ## Measure next to what bounds it (ROWS="single memory" QUICK=1 SCALE=0.5)
	@$(BIN)/python -m bench $(ROWS) $(if $(QUICK),--quick) $(if $(SCALE),--scale $(SCALE))

capacity: setup ## What an installation needs (DEVICES=20000 SYNCS=24 BACKLOG=84 RETENTION=365), by measured costs
	@$(BIN)/python -m bench.capacity $(if $(filter-out file,$(origin DEVICES)),--devices $(DEVICES)) \
	  $(if $(SYNCS),--syncs $(SYNCS)) $(if $(BACKLOG),--backlog $(BACKLOG)) $(if $(RETENTION),--retention $(RETENTION))

lock: ## Resolve pyproject.toml into locks/, leaving versions that still fit
	sh scripts/lock

sbom: ## Write sbom.cdx.json: what PiSync runs with, with versions and licences (CycloneDX)
	@PYTHON=$(PYTHON) sh scripts/sbom

clean: ## Remove .venv, caches and the local stack's data
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .pisync
