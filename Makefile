# The only entry: everything a person or a CI does here is a target of this file.
#
#   make demo       label the sample jobs on 2 workers, and replay a sample recording
#   make test       every test but the slow ones, on every core, and those of the engine with the other engine where a CPython
#                   3.10 is there; with ARGS="-k cache", which is passed on to pytest, in one process and only with the engine
#                   that `auto` takes
#   make test-all   every test: on CPython 3.10 with both engines, and on the newest CPython with wasmtime
#   make lint       ruff, its formatter, mypy --strict
#   make bench      the benchmark suite, into out/bench; ARGS="--quick" is passed on to it
#   make deaths     what a worker's death costs, beside other pools, and where the milliseconds go
#   make fuzz       the property tests, with twenty times as many examples, and the wasm fuzzer for two minutes
#   make chaos      workers killed and stopped while they label, for two minutes; ARGS="--seconds 600 --seed 1"
#   make clean      remove what tests and builds leave behind (distclean: the environments, too)
#
# A fresh clone needs network access and a CPython from 3.10 to 3.14 with venv and ensurepip: the newest of this machine is
# taken, PYTHON=... names another one, and where there is none uv fetches one, for which any python3 will do. Nothing outside
# the clone is written, save for the caches of pip, uv and guardpool.

VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
INSTALLED := $(VENV)/.installed
BENCH_INSTALLED := $(VENV)/.installed-bench

# The environment of the tests that run on CPython 3.10, the only one that both engines have builds for.
VENV_310 := .venv-3.10
INSTALLED_310 := $(VENV_310)/.installed

# Where uv is kept, and what it fetches, on a machine without a Python that will do.
UV_VENV := .uv-venv
UV_PYTHON := 3.13

# Looked for only when an environment is to be made.
PYTHON ?= $(shell .ci/find-python)
PYTHON_310 ?= $(shell .ci/find-python 3.10)
# Any Python that can make an environment for uv.
ANY_PYTHON = $(shell for p in python3 /usr/bin/python3; do \
	$$p -c 'import ensurepip, sys; sys.exit(sys.version_info < (3, 8))' >/dev/null 2>&1 && { echo $$p; break; }; done)
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
SAY_PYTHON = -c 'import platform, sys; print("CPython", platform.python_version(), "of", sys.base_prefix)'
# The tests in a process for each core (`pytest_xdist_auto_num_workers` in tests/conftest.py has the number). Each process gets
# one part of the list, in order, and helps the other when it is through.
ON_EVERY_CORE := -n auto --dist worksteal
ARGS ?=

# A test run starts hundreds of processes; bytecode saves it a minute. Docker images often have this variable.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo test test-other-engine test-all lint format bench deaths fuzz chaos clean distclean
.DELETE_ON_ERROR:

help:
	@sed -n '3,15s/^#   //p' Makefile

install: $(INSTALLED)
	@echo "guardpool is in $(VENV): $$($(PY) $(SAY_PYTHON))"

$(UV_VENV)/bin/uv:
	@if [ -z "$(ANY_PYTHON)" ]; then \
		echo "make: no python3 with venv and ensurepip here; install one (Debian: apt install python3-venv)" >&2; exit 1; fi
	@echo "Preparing $(UV_VENV) (uv)"
	@$(ANY_PYTHON) -m venv $(UV_VENV)
	@$(UV_VENV)/bin/python $(PIP_INSTALL) uv
	@test -x $@

$(PY):
	@python="$(PYTHON)"; \
	if [ -z "$$python" ]; then \
		$(MAKE) --no-print-directory $(UV_VENV)/bin/uv && \
		UV_PYTHON_INSTALL_DIR="$(CURDIR)/$(UV_VENV)/python" $(UV_VENV)/bin/uv python install --quiet --no-bin $(UV_PYTHON) && \
		python=$$(UV_PYTHON_INSTALL_DIR="$(CURDIR)/$(UV_VENV)/python" .ci/find-python) || { \
		echo "make: no CPython from 3.10 to 3.14 is here and none could be fetched; install one (pyenv, apt)" >&2; exit 1; }; \
	fi; \
	echo "Preparing $(VENV) ($$("$$python" $(SAY_PYTHON)))"; \
	"$$python" -m venv --clear $(VENV)

$(INSTALLED): pyproject.toml constraints.txt | $(PY)
	@echo "Installing guardpool and its tools"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null  # an environment that uv made has no pip
	@$(PY) $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

$(BENCH_INSTALLED): $(INSTALLED)
	@echo "Installing the pools and plots of the benchmarks"
	@$(PY) $(PIP_INSTALL) --editable '.[dev,bench]'
	@touch $@

# Says nothing: most people never look at this environment.
$(INSTALLED_310): pyproject.toml constraints.txt
	@test -n "$(PYTHON_310)" || { echo "make: no CPython 3.10 here; install one (pyenv, apt)" >&2; exit 1; }
	@test -x $(VENV_310)/bin/python || "$(PYTHON_310)" -m venv --clear $(VENV_310)
	@$(VENV_310)/bin/python $(PIP_INSTALL) --editable '.[dev]'
	@touch $@

demo: $(INSTALLED)
	@mkdir -p out
	@TMPDIR='$(CURDIR)/out' $(BIN)/guardpool demo $(ARGS)  # what it writes stays in the clone

# The second part comes last, so that its summary is the last line, and runs only if the first one passed.
test: $(INSTALLED)
	@$(if $(strip $(ARGS)),,$(MAKE) --no-print-directory test-other-engine)
	@$(PY) -m pytest $(if $(strip $(ARGS)),$(ARGS),$(ON_EVERY_CORE))

# The tests marked `engine`, with the engine that `auto` does not take in the main environment. Both are there on CPython 3.10.
test-other-engine: $(INSTALLED)
	@if $(PY) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 10))'; then \
		$(PY) -m pytest $(ON_EVERY_CORE) --engine wasmtime -m "engine and not slow"; \
	elif [ -n "$(PYTHON_310)" ]; then \
		$(MAKE) --no-print-directory $(INSTALLED_310) && \
		$(VENV_310)/bin/python -m pytest $(ON_EVERY_CORE) --engine wasmer -m "engine and not slow"; \
	else \
		echo "No CPython 3.10 is here: the tests of the engine were not run with wasmer"; \
	fi

test-all: $(INSTALLED) $(INSTALLED_310)
	@$(VENV_310)/bin/python -m pytest --engine wasmer -m "slow or not slow" $(ARGS)
	@$(VENV_310)/bin/python -m pytest --engine wasmtime -m "slow or not slow" $(ARGS)
	@$(PY) -m pytest --engine wasmtime -m "slow or not slow" $(ARGS)

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
	@rm -rf $(VENV) $(VENV_310) $(UV_VENV)
