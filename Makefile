# make demo and make test need python3 (3.11+), git and make; they set up .venv by themselves, each with what it needs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
JOBS ?= logical
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest
# Two tests at a time on two cores, each on one thread.
PARALLEL := --numprocesses $(JOBS) --maxprocesses 8 --dist worksteal

.PHONY: demo test slow mutants parity bench docs format fixtures fresh clean

demo: $(VENV)/.installed
	$(BIN)/combo demo --out demo

test: $(VENV)/.installed-test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pyright --project pyproject.toml
	$(PYTEST) -m "not slow and not gpu" $(PARALLEL)

# One at a time: these tests measure memory, start processes of their own, or use the GPU.
slow: $(VENV)/.installed-test
	$(PYTEST) -m "slow or gpu"

# Each wrong edit in the tables of tests/mutants must be noticed by the tests of its room; of some: make mutants ONLY=matcher
mutants: $(VENV)/.installed-test
	PYTHONPATH=tests $(BIN)/python -m mutants --jobs $(JOBS) --only "$(ONLY)"

# All that is held against published results, the slow ones too; COMBO_REFERENCE names the whole set of fixtures.
parity: $(VENV)/.installed-test
	$(PYTEST) -m "not gpu" $(PARALLEL) tests/parity tests/test_reference.py

# Each once, on the device there is.
bench: $(VENV)/.installed-test
	mkdir -p build/bench
	$(BIN)/python benchmarks/loader.py --out build/bench/loader
	$(BIN)/python benchmarks/memory.py --out build/bench/memory.json
	$(BIN)/python benchmarks/train_step.py --out build/bench/train_step
	$(BIN)/python benchmarks/stage_one.py --out build/bench/stage_one.json
	$(BIN)/python benchmarks/mask_generation.py --out build/bench/mask_generation
	$(BIN)/python benchmarks/semantic_sam.py

docs: $(VENV)/.installed-docs
	$(BIN)/mkdocs build --strict --site-dir build/site

format: $(VENV)/.installed-test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The small golden fixtures from the whole set: make fixtures REFERENCE=DIR
fixtures: $(VENV)/.installed-test
	$(BIN)/python tests/reference/shrink.py $(or $(REFERENCE),../shared/reference) tests/reference

# Both commands on bare Debian 12 and 13; as root, with debootstrap.
fresh:
	tests/fresh.sh

$(VENV)/.installed: setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12")'
	@# Debian and Ubuntu keep ensurepip, which venv needs, in a package of its own.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get update -qq && apt-get install -y -qq python3-venv; } \
	    || { echo 'python3 cannot make virtual environments; as root: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/.installed-%: $(VENV)/.installed
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[$*]'
	@# Pyright finds the package by its folder's name.
	mkdir -p $(VENV)/package && ln -sfn ../.. $(VENV)/package/combo_avs
	touch $@

clean:
	rm -rf $(VENV) demo *.egg-info build dist
