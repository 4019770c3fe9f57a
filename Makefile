# The only entry: everything a person or a CI does here is a target of this file.
#
#   make demo       label the sample jobs on 2 workers
#   make test       every test but the slow ones; ARGS="-k cache" is passed on to pytest
#   make test-all   every test
#   make lint       ruff, its formatter, mypy --strict
#   make bench      the benchmark suite, into out/bench; ARGS="--quick" is passed on to it
#   make deaths     what a worker's death costs, beside other pools, and where the milliseconds go
#   make fuzz       the property tests, with twenty times as many examples, and the wasm fuzzer for two minutes
#   make chaos      workers killed and stopped while they label, for two minutes; ARGS="--seconds 600 --seed 1"
#   make clean      remove what tests and builds leave behind (distclean: the environments, too)
#
# A fresh clone needs Python 3 and network access. CPython 3.10, which the wasm engine is built for, is taken from the
# machine or fetched by uv. Nothing outside the clone is written, save for the caches of pip, uv and guardpool.

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
UV_VENV := .uv-venv
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench

# The first Python that can make an environment: a shim of pyenv may be there and refuse to run. Looked for only when needed.
PYTHON ?= $(shell for p in python3 /usr/bin/python3 python3.13 python3.12 python3.11 python3.10; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1 && { echo $$p; break; }; done)
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help install demo test test-all lint format bench deaths fuzz chaos clean distclean
.DELETE_ON_ERROR:

help:
	@sed -n '3,11s/^#   //p' Makefile

install: $(INSTALLED)

$(UV_VENV)/bin/uv:
	@if [ -z "$(PYTHON)" ]; then \
		echo "make: no python3 with venv and ensurepip here; install one (Debian: apt install python3-venv)" >&2; exit 1; fi
	@echo "Preparing $(UV_VENV) (uv)"
	@$(PYTHON) -m venv $(UV_VENV)
	@$(UV_VENV)/bin/python -m pip install --quiet --constraint constraints.txt uv
	@test -x $@

$(PY): | $(UV_VENV)/bin/uv
	@echo "Preparing $(VENV) (CPython $$(cat .python-version))"
	@UV_PYTHON_INSTALL_DIR="$(CURDIR)/$(UV_VENV)/python" \
		$(UV_VENV)/bin/uv venv --quiet --no-project --allow-existing --python "$$(cat .python-version)" $(VENV) || { \
		echo "make: CPython $$(cat .python-version) is not here and could not be fetched; install it (pyenv, apt)" >&2; exit 1; }

# uv finds Python; pip installs, because pip knows how this machine is configured (pip.conf, PIP_*).
$(INSTALLED): pyproject.toml constraints.txt | $(PY) $(UV_VENV)/bin/uv
	@echo "Installing guardpool and its tools"
	@$(UV_VENV)/bin/python -m pip --python $(PY) install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	@echo "Installing the pools and plots of the benchmarks"
	@$(UV_VENV)/bin/python -m pip --python $(PY) install --quiet --constraint constraints.txt --editable '.[dev,bench]'
	@touch $@

demo: $(INSTALLED)
	@$(BIN)/guardpool demo $(ARGS)

test: $(INSTALLED)
	@$(PY) -m pytest $(ARGS)

test-all: $(INSTALLED)
	@$(PY) -m pytest -m "slow or not slow" $(ARGS)

lint: $(INSTALLED)
	@$(BIN)/ruff check
	@$(BIN)/ruff format --check
	@$(BIN)/mypy

format: $(INSTALLED)
	@$(BIN)/ruff check --fix
	@$(BIN)/ruff format

bench: $(BENCH_INSTALLED)
	@$(BIN)/guardpool bench --out out/bench $(ARGS)

deaths: $(BENCH_INSTALLED)
	@$(PY) benchmarks/side_by_side_deaths.py $(ARGS)
	@$(PY) benchmarks/kill_timeline.py

fuzz: $(INSTALLED)
	@GUARDPOOL_FUZZ=1 $(PY) -m pytest -m hypothesis $(ARGS)
	@GUARDPOOL_FUZZ=1 $(PY) -m pytest -m "not hypothesis" -k fuzz $(ARGS)

chaos: $(INSTALLED)
	@$(PY) tests/kits/chaos.py $(ARGS)

clean:
	@rm -rf build dist out .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find engine workers tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	@rm -rf $(VENV) $(UV_VENV)
