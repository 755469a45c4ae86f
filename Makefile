# Needs Python ≥ 3.11 and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 7860

.PHONY: demo test lint bench clean

demo: $(VENV)/installed ## serve the dashboard and distil the bundled student
	$(BIN)/opd demo $(if $(filter command line environment,$(origin PORT)),--port $(PORT))

test: $(VENV)/installed-dev ## every test; browser tests need Chromium
	$(BIN)/python -m pytest

lint: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/installed-dev ## benchmarks print ratios; nothing is asserted
	$(BIN)/python -m bench.decode
	$(BIN)/python -m bench.telemetry

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OPD Studio needs Python 3.11 or newer; try: make PYTHON=python3.11 $@")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml $(VENV)/installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info
