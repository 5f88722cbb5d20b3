PYTHON ?= python3
PORT ?= 5000
VENV := .venv
BIN := $(VENV)/bin

.PHONY: run test fuzz bench lint nox screenshots release-check clean

run: $(VENV)/run
	$(BIN)/flask run --port $(PORT)

test: $(VENV)/dev
	$(BIN)/pytest

fuzz: $(VENV)/dev
	FUZZ_EXAMPLES=10000 DIFFERENTIAL_EXAMPLES=10000 $(BIN)/pytest -q --timeout 7200 \
		tests/test_fuzz.py tests/upstream/test_differential.py
	FUZZ_EXAMPLES=2000 $(BIN)/pytest -q --timeout 3600 tests/tokens/test_state_machine.py

bench: $(VENV)/dev
	$(BIN)/python benchmarks/bench.py

lint: $(VENV)/dev
	$(BIN)/pre-commit run --all-files

nox: $(VENV)/dev
	$(BIN)/nox

screenshots: $(VENV)/dev
	PYTHONPATH=.:tests $(BIN)/python docs/screenshots.py

release-check: $(VENV)/dev
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/twine check --strict dist/*
	$(BIN)/check-wheel-contents dist/*.whl
	.ci/check-wheel dist/*.whl
	npm pack --dry-run ./bakrypt_proxy/browser

$(VENV)/run: pyproject.toml requirements.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --requirement requirements.txt
	touch $@

$(VENV)/dev: $(VENV)/run
	$(BIN)/pip install --quiet --editable .[dev]
	touch $@

clean:
	rm -rf $(VENV) .nox dist benchmarks/express/node_modules
