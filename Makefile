# Everything below sets up what it needs: a machine with Python 3.11, make and git is enough.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Linux wheels of torch on PyPI bring several GB of CUDA libraries, which nothing here uses.
# For a machine with a GPU: make TORCH=torch==VERSION TORCH_DEPENDENCIES=
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH_PIN := $(shell grep '^torch==' constraints.txt)
ifeq ($(shell uname -s),Linux)
TORCH ?= $(TORCH_PIN)+cpu
else
TORCH ?= $(TORCH_PIN)
endif
TORCH_DEPENDENCIES ?= --no-deps

.PHONY: serve test check bench test-wheel venv clean

## serve: the whole mesh on this machine, at http://127.0.0.1:8000
serve: $(STAMP)
	@$(BIN)/tetris up $(ARGS)

## test: the suite that CI runs
test: $(STAMP)
	@$(BIN)/python -m pytest $(ARGS)

## check: format, lint, types, layering
check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

## bench: every benchmark of tests/bench, one after the other
bench: $(STAMP)
	@for script in tests/bench/bench_*.py; do \
	  echo "== $$script"; OMP_NUM_THREADS=1 $(BIN)/python -P "$$script" || exit 1; done

## test-wheel: build the wheel, install it into an empty environment, serve one request
test-wheel: $(STAMP)
	@TORCH="$(TORCH)" TORCH_INDEX="$(TORCH_INDEX)" PYTHON="$(PYTHON)" tests/compose/wheel_serves.sh

venv: $(STAMP)

clean:
	rm -rf $(VENV) build dist *.egg-info

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: make PYTHON=..." >&2; exit 1; }
	@echo "[1/3] virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/3] $(TORCH)"
	@$(PIP) install -qq --retries 1 $(TORCH_DEPENDENCIES) \
	  --extra-index-url $(TORCH_INDEX) "$(TORCH)"
	@echo "[3/3] tetris-serve with the versions of constraints.txt"
	@$(PIP) install -qq -c constraints.txt -e '.[dev]'
	@touch $@
