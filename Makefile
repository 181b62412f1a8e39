# Each target makes what it needs and works alone on a fresh machine with Python 3.11.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
PIP = $(BIN)/python -m pip install --quiet --constraint constraints.txt

.PHONY: demo test test-slow test-fast lint types doctest docs bench package clean

demo: $(VENV)/examples
	$(BIN)/python examples/digits.py

# One process a core, each with one thread. `make test TESTS=tests/test_ordering.py` runs less.
# Tests marked `slow` are those of `make test-slow` alone.
test test-slow test-fast: $(VENV)/test
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest --numprocesses=auto $(TESTS)

test-slow: $(VENV)/programs
test: TESTS =
test-slow: TESTS = -m slow
# What most changes break, in about a minute on two cores.
test-fast: TESTS = \
	tests/test_factorization.py tests/test_ordering.py tests/test_partition.py \
	tests/test_package.py tests/test_errors.py tests/test_distribution.py \
	tests/families/test_base.py tests/engine/test_rollout.py tests/engine/test_end.py \
	tests/networks/test_base.py::test_conditionals_depend_on_what_they_may_and_on_nothing_else \
	tests/networks/test_base.py::test_decoder_gives_the_numbers_of_the_parallel_pass

lint: $(VENV)/test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/test
	$(BIN)/mypy

doctest: $(VENV)/test
	$(BIN)/python -m pytest --doctest-modules ardist --doctest-glob='*.md' --ignore=docs/_build README.md docs

docs: $(VENV)/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going -q docs docs/_build/html

bench: $(VENV)/benchmarks
	$(BIN)/python benchmarks/run.py

# What is published: built, checked, and tried away from the source tree. The import and the doctests
# have no more than the wheel asks for. `make package TESTS=tests/test_ordering.py` tries less.
package: FRESH = $(VENV)-package
package: TESTS = tests
package: $(VENV)/package
	rm -rf dist $(FRESH)
	$(BIN)/python -m build
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv $(FRESH)
	$(FRESH)/bin/pip install --quiet --constraint constraints.txt dist/*.whl
	cd $(FRESH) && bin/python -c 'import ardist'
	mkdir $(FRESH)/sdist && tar xf dist/*.tar.gz -C $(FRESH)/sdist --strip-components=1 --exclude='ardist-*/ardist'
	$(FRESH)/bin/pip install --quiet --constraint constraints.txt pytest
	cd $(FRESH)/sdist && ../bin/pytest --doctest-modules --pyargs ardist
	$(FRESH)/bin/pip install --quiet --constraint constraints.txt "$$(echo dist/*.whl)[test]"
	cd $(FRESH)/sdist && ../bin/pytest $(TESTS)

clean:
	rm -rf $(VENV) $(VENV)-package dist docs/_build docs/errors.md

# An extra is installed once, and again when what it depends on changes.
$(VENV)/%: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable '.[$*]'
	touch $@
