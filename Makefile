# Few verbs and no cleverness. A fresh machine needs Python 3.11 or newer and the package registry.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# uv leaves packages without bytecode, and where PYTHONDONTWRITEBYTECODE is set no import would ever write it.
COMPILE = $(BIN)/python -I -S src/clary/images/installed.py compile

.PHONY: setup demo test lint bench up lock sdk-pins
setup: $(VENV)/.ready .venvs/sdk2/.ready .venvs/sdk3/.ready

$(VENV)/.ready: pyproject.toml requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(VENV) --constraint requirements.lock -e '.[test,lint]'
	$(COMPILE) $(VENV)/lib src
	touch $@

# The SageMaker SDKs of the end-to-end tests: each has an environment of its own, as a user has it.
.venvs/%/.ready: tests/e2e/%.txt | $(VENV)/.ready
	$(BIN)/uv venv --quiet --clear --python $(VENV) .venvs/$*
	$(BIN)/uv pip sync --quiet --python .venvs/$* $<
	$(COMPILE) .venvs/$*/lib
	touch $@

sdk-pins: $(VENV)/.ready
	cd tests/e2e && for sdk in sdk2 sdk3; do ../../$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 \
	  --no-header --annotation-style line --overrides sdk-leave-out.txt $$sdk.in -o $$sdk.txt; done

demo: $(VENV)/.ready
	$(BIN)/clary demo

# Stories wait more than they compute: two files at a time.
test: setup
	$(BIN)/python -m pytest -n 2 --dist loadfile

lint: $(VENV)/.ready
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench
	$(BIN)/mypy

bench: $(VENV)/.ready
	$(BIN)/python bench/run.py

up: $(VENV)/.ready
	$(BIN)/clary up

# After a change of dependencies: pins for every Python and platform that is supported.
lock: $(VENV)/.ready
	$(BIN)/uv pip compile --quiet --universal --upgrade --python-version 3.11 --extra test --extra lint --extra demo \
	  --no-header --annotation-style line pyproject.toml -o requirements.lock
