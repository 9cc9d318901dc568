# Two commands do all set-up: `make quickstart` runs the main job, `make test` passes the tests.
PYTHON ?= python3
EXTRAS ?=
COMMA := ,
VENV := .venv
BIN := $(VENV)/bin
PACKAGES := nextscale.cluster nextscale.fit nextscale.model nextscale.sweeps
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist worksteal
SOURCES := benchmarks cluster examples fit model sweeps tests

.PHONY: quickstart test test-slow test-soak lint types format clean

quickstart: $(VENV)/user
	$(BIN)/nextscale quickstart

test: lint types
	$(BIN)/python -m pytest $(SIDE_BY_SIDE)

test-slow: $(VENV)/developer
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m "slow and not soak" --durations=20

test-soak: $(VENV)/developer
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) -m soak --durations=20

lint: $(VENV)/developer
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/ruff format --check $(SOURCES)

# On what a user installs: a wheel, unpacked. An editable install is opaque to mypy.
types: $(VENV)/developer
	rm -rf build
	$(BIN)/pip install --quiet --no-deps --target build/installed .
	MYPYPATH=build/installed $(BIN)/mypy --python-executable $(BIN)/python $(addprefix -p ,$(PACKAGES))

format: $(VENV)/developer
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .pytest_cache .ruff_cache

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "nextscale needs Python 3.11 or newer; name one: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/user: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.$(if $(EXTRAS),[$(EXTRAS)])'
	@touch $@

$(VENV)/developer: $(VENV)/bin/python pyproject.toml
	$(BIN)/pip install --quiet --editable '.[$(if $(EXTRAS),$(EXTRAS)$(COMMA))dev]'
	@touch $@ $(VENV)/user
