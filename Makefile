# make demo and make test need python3 (3.11+), git and make; they set up .venv by themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: demo test slow bench docs format clean

demo: $(STAMP)
	$(BIN)/combo demo --out demo

test: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/pytest -m "not slow and not gpu"

slow: $(STAMP)
	$(BIN)/pytest -m "slow or gpu"

bench: $(STAMP)
	mkdir -p build/bench
	$(BIN)/python benchmarks/loader.py --out build/bench/loader
	$(BIN)/python benchmarks/memory.py --out build/bench/memory
	$(BIN)/python benchmarks/train_step.py --out build/bench/train_step
	$(BIN)/python benchmarks/memory.py --out build/bench/memory.json
	$(BIN)/python benchmarks/stage_one.py --out build/bench/stage_one.json
	$(BIN)/python benchmarks/mask_generation.py --out build/bench/mask_generation
	$(BIN)/python benchmarks/semantic_sam.py

docs: $(STAMP)
	$(BIN)/mkdocs build --strict --site-dir build/site

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(STAMP): setup.cfg constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
	    "Python 3.11 or newer is needed; name one with: make PYTHON=python3.12")'
	@# Debian and Ubuntu keep ensurepip, which venv needs, in a package of its own.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	    && apt-get update -qq && apt-get install -y -qq python3-venv; } \
	    || { echo 'python3 cannot make virtual environments; as root: apt-get install python3-venv' >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) demo *.egg-info build dist
