# `make study`: see it work. `make check`: everything that must hold; `make check-all`: the slow tests too. `make docs`: the site.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
export OMP_WAIT_POLICY := PASSIVE
# mkdocs-material announces its successor at each build.
export NO_MKDOCS_2_WARNING := 1

.PHONY: study check check-all lint docs format clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info[:2] < (3, 14) else "lowcurve needs Python 3.11 to 3.13, this is " + sys.version.split()[0] + ": write make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

study: $(VENV)/.installed
	$(BIN)/lowcurve study $(ARGS)

# One thread a worker: two workers with two threads each would wait for each other.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2

check: $(VENV)/.installed
	$(MAKE) -j 2 --output-sync lint docs
	$(PYTEST) -m "not slow" $(ARGS)

check-all: $(VENV)/.installed
	$(MAKE) -j 2 --output-sync lint docs
	$(PYTEST) $(ARGS)

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed
	$(BIN)/mkdocs build --quiet --strict

format: $(VENV)/.installed
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV)
