# Each target makes what it needs and works alone on a fresh machine with Python 3.11.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test lint types doctest docs bench clean

demo: $(VENV)/examples
	$(BIN)/python examples/digits.py

test: $(VENV)/test
	$(BIN)/python -m pytest

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test
	$(BIN)/mypy

doctest: $(VENV)/test
	$(BIN)/python -m pytest --doctest-modules ardist --doctest-glob='*.md' README.md docs

docs: $(VENV)/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going -q docs docs/_build/html

bench: $(VENV)/benchmarks
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf $(VENV) docs/_build

# An extra is installed once, and again when what it depends on changes.
$(VENV)/%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[$*]'
	touch $@
