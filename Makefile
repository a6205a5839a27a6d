# `make demo` and `make test` set up what they need in .venv, on a machine with Python 3.11 to 3.13.
PYTHON ?= python3.11
BIN := .venv/bin
export TF_CPP_MIN_LOG_LEVEL ?= 3
# Two processes of one thread each are done sooner than one of two threads. Each starts with a half of the tests, one
# file after another, so that hardly anything that a file's tests share is made, or compiled, twice.
PYTEST := OMP_NUM_THREADS=1 TF_NUM_INTRAOP_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

.PHONY: demo test lint format clean

demo: .venv/installed
	$(BIN)/rim-tf demo --out demo --overwrite

test: .venv/installed-test lint
	$(PYTEST)
	KERAS_BACKEND=jax $(PYTEST) tests/training/test_on_jax.py tests/conformance tests/models tests/physics -m "not once"

lint: .venv/installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

format: .venv/installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamp files are written last, so that an interrupted installation is taken up again.
.venv/installed: setup.cfg setup.py
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/installed-test: .venv/installed
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

clean:
	rm -rf .venv demo build *.egg-info
