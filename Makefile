# Everything below sets up what it needs: a machine with Python 3.11, make and git is enough.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
CLIENTS := .venv-clients
STAMP := $(VENV)/.stamp
PIP := $(BIN)/python -m pip --disable-pip-version-check

# On Linux without a GPU, pip's extra index (PIP_EXTRA_INDEX_URL) may name one with CPU builds of
# torch, which saves several GB of CUDA libraries.
TORCH := $(shell grep '^torch==' constraints.txt)

# The planner's compiled search: an edited one is built anew.
CORE := $(wildcard services/router/_*.[ch])

.PHONY: serve serve-emulated test test-api test-clients test-browser test-faults soak check paper rates bench bench-planner bench-gap bench-streams bench-overload bench-doors test-wheel venv clean

## serve: the whole mesh on this machine, at http://127.0.0.1:8000
serve: $(STAMP)
	@$(BIN)/tetris up $(ARGS)

## serve-emulated: the paper's cluster without a model, on this machine
serve-emulated: $(STAMP)
	@$(BIN)/tetris up --emulated $(ARGS)

## test: the suite that CI runs
test: $(STAMP)
	@$(BIN)/python -m pytest $(ARGS)

## test-browser: the board in the system's Chromium, with new pictures in docs/board; SECONDS=120
test-browser: $(STAMP)
	@$(PIP) install -qq -c constraints.txt 'playwright>=1.48'
	@BOARD_PICTURES=docs/board BOARD_SECONDS=$(or $(SECONDS),120) \
	  $(BIN)/python -m pytest -s --timeout 900 tests/browser $(ARGS)

## test-api: fuzz a gateway with its own /openapi.json; ARGS="--max-examples 500 --seed 7"
test-api: $(STAMP)
	@$(PIP) install -qq -c constraints.txt -e '.[fuzz]'
	@$(BIN)/python -m tests.gateway.fuzz $(or $(ARGS),--max-examples 100)

## test-faults: break real meshes in every phase; ROWS=F2,F9 REPEATS=3 SEED=7
test-faults: $(STAMP)
	@$(BIN)/python -m tests.faults.suite --rows "$(ROWS)" --repeats $(or $(REPEATS),1) \
	  --seed $(or $(SEED),1)

## test-clients: openai, langchain, litellm and lm-eval against a mesh, in their own environment
test-clients: $(STAMP) $(CLIENTS)/.stamp
	@$(BIN)/python -m tests.clients.suite --python $(CLIENTS)/bin/python $(ARGS)

$(CLIENTS)/.stamp: tests/clients/requirements.txt constraints.txt
	@echo "clients people use, in $(CLIENTS)"
	@$(PYTHON) -m venv $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip --disable-pip-version-check install -qq "$(TORCH)"
	@$(CLIENTS)/bin/python -m pip --disable-pip-version-check install -qq -r $<
	@touch $@

## soak: load and random faults for MINUTES=20 at LOAD=0.6 of the measured capacity
soak: $(STAMP)
	@$(BIN)/python -m tests.faults.soak --minutes $(or $(MINUTES),20) --load $(or $(LOAD),0.6) \
	  --seed $(or $(SEED),1)

## simulate: the control plane in virtual time, seed by seed: make simulate ARGS="--seeds 0..999"
simulate: $(STAMP)
	@$(BIN)/python -m tests.simulation.run $(ARGS)

## check: format, lint, types, layering
check: $(STAMP)
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

## bench: every benchmark of tests/bench, one after the other
bench: $(STAMP)
	@for name in planner simulator optimum decode prefill; do echo "== $$name"; \
	  OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_$$name || exit 1; done

## bench-planner: time of one plan, compiled and in Python, beside the paper's planner
bench-planner: $(STAMP)
	@$(BIN)/python -m tests.bench.bench_planner

## bench-gap: on a real mesh, a long prompt beside a busy instance; about 12 minutes, all cores
bench-gap: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_gap $(ARGS)

## bench-streams: tokens/s and requests/s of one gateway process before it adds 20 ms
bench-streams: $(STAMP)
	@$(BIN)/python -m tests.bench.bench_streams $(ARGS)

## bench-overload: ten times the capacity, in virtual time; a live mesh: ARGS="--url http://..."
bench-overload: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.bench.bench_overload $(ARGS)

## bench-doors: how long the gateway's loop stands still while its door is attacked; one minute
bench-doors: $(STAMP)
	@$(BIN)/python -m tests.bench.bench_doors

## paper: the paper's evaluation in simulation, into docs/paper.md
paper: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m tests.paper.report $(ARGS)

## rates: profile the improvement rates of the paper's cluster anew, to standard output
rates: $(STAMP)
	@for policy in cdsp single-chunk; do for one in short:7.5 medium:5 long:3; do \
	  $(BIN)/tetris rates --policy $$policy --workload $${one%:*} --top $${one#*:} || exit 1; \
	done; done

## test-wheel: build the wheel, install it into an empty environment, serve one request
test-wheel: $(STAMP)
	@TORCH="$(TORCH)" PYTHON="$(PYTHON)" tests/compose/wheel_serves.sh

venv: $(STAMP)

clean:
	rm -rf $(VENV) $(CLIENTS) build dist *.egg-info services/router/_search.*.so

$(STAMP): pyproject.toml constraints.txt $(CORE)
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: make PYTHON=..." >&2; exit 1; }
	@echo "[1/3] virtual environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@echo "[2/3] $(TORCH)"
	@$(PIP) install -qq "$(TORCH)"
	@echo "[3/3] tetris-serve with the versions of constraints.txt"
	@$(PIP) install -qq -c constraints.txt -e '.[dev]'
	@touch $@
