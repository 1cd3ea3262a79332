# Everything runs from .venv, made here on first use; PYTHON names the interpreter it is made with.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test lint types pytest conformance beside faults large clean

demo: $(VENV)/.installed
	$(BIN)/python -m tests.demo $(if $(KEEP),--keep)

test: lint types pytest

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.installed
	$(BIN)/mypy

pytest: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal $(PYTEST_ARGS)

# One suite against moto and LocalStack, and against a server of yours if CONFORMANCE_ENDPOINT_URL names one
# (with CONFORMANCE_REGION, _ACCESS_KEY_ID, _SECRET_ACCESS_KEY and, to use a bucket that is there, _BUCKET).
# LocalStack is installed once, into .localstack-venv or $CONFORMANCE_LOCALSTACK_VENV.
conformance: $(VENV)/.installed
	$(BIN)/python -m tests.conformance.localstack
	CONFORMANCE_BACKENDS=moto,localstack $(BIN)/python -m pytest tests/conformance $(PYTEST_ARGS)

# Twenty videos through the stand-in compressor and the daemon, again and again, each time disturbed elsewhere.
beside: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist worksteal tests/beside $(PYTEST_ARGS)

# The daemon killed at every step, and flooded with directories and files.
faults: $(VENV)/.installed
	$(BIN)/python -m pytest -s tests/faults $(PYTEST_ARGS)

# Files of 5 GiB that take no disk, through the whole daemon, in about two minutes.
large: $(VENV)/.installed
	$(BIN)/python -m pytest -s tests/large $(PYTEST_ARGS)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "video-uploader needs Python 3.11 or newer; name one with PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .localstack-venv build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
