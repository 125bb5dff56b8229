# `make demo` and `make test` need nothing but Python >= 3.11 and make.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	command -v $$p >/dev/null 2>&1 && \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && \
	echo $$p && break; done)
VENV ?= .venv
BIN := $(VENV)/bin
WORKERS ?= 2
STAMP := $(VENV)/.installed

.PHONY: demo test peer lint format docs install clean

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml Makefile
	@test -n "$(PYTHON)" || { echo "Python >= 3.11 was not found; set PYTHON=/path/to/python"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "$(PYTHON) cannot make a virtual environment; install its venv module (Debian: python3-venv)"; exit 2; }
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e '.[experiments,checkpoints,tests]'
	@$(BIN)/python -m pip install --quiet -e '.[solvers]' || \
	  echo "continuing without the optional solvers"
	@touch $@

demo: $(STAMP)
	$(BIN)/python -m experiments.demo --workdir=build/demo --overwrite

test: $(STAMP)
	$(BIN)/python -m pytest -n $(WORKERS) --dist=loadfile --cov --cov-report=term \
	  -m 'not peer and not slow'

# Against the field's own software: a large download, left out where there is none.
peer: $(STAMP)
	@if $(BIN)/python -m pip install --quiet -e '.[peer]'; then \
	  $(BIN)/python -m pytest -n $(WORKERS) --dist=loadfile -m 'peer and not slow'; \
	else echo "continuing without the peers: they cannot be installed here"; fi

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet -e '.[docs]'
	$(BIN)/sphinx-build -W --keep-going -b html docs build/docs

clean:
	rm -rf build $(VENV)
