# make quickstart  measure this machine, fit, plan, report (about 3 minutes)
# make test        the whole test suite, with ruff
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: env quickstart test bench checkpoints format lock clean

env: $(STAMP)

# The lock names no package index: pip uses the one that this machine is set
# up for. Hashes make the result the same behind any of them.
$(STAMP): requirements.lock pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  --no-deps --no-build-isolation --no-index -e .
	touch $@

quickstart: env
	$(BIN)/python -m experiments.quickstart --out=runs/quickstart

# Whole files go to the workers in the order of tests/conftest.py.
test: env
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

bench: env
	$(BIN)/python -m pytest benchmarks/*_benchmark.py -o addopts= --benchmark-only

# All shipped checkpoints, from a folder of public traces: about 15 minutes.
checkpoints: env
	$(BIN)/python -m experiments.rebuild_checkpoints --traces_dir=$(TRACES)

format: env
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# Needs uv; only when pyproject.toml's dependencies change.
lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes \
	  --no-emit-index-url --no-header --extra dev --extra figures \
	  -o requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) runs build *.egg-info
