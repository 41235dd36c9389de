PYTHON ?= python3
VENV := .venv
STAMP := $(VENV)/.installed

.PHONY: run test pytest check docs venv clean
.DEFAULT_GOAL := venv

# train on the data set in the package, evaluate, print what came out (about eleven minutes on two cores)
run: venv
	$(VENV)/bin/srpo demo

# the tests, and beside them lint, format and types, which keep one core busy
test: $(VENV)/.tested
	$(MAKE) --no-print-directory --jobs 2 check pytest

pytest: $(VENV)/.tested
	$(VENV)/bin/python -m pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder

# lint, format and types
check: $(VENV)/.tested
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --check --quiet .
	$(VENV)/bin/mypy

# the documentation as a site, in site/
docs: | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[all,docs]'
	$(VENV)/bin/mkdocs build --strict --quiet

venv: $(STAMP)

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[all]'
	touch $@

$(VENV)/.tested: pyproject.toml | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@ $(STAMP)

clean:
	rm -rf $(VENV) build dist site
