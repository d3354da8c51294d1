# `make` alone lists the targets. Everything is installed into .venv here; only pip uses the network.
PYTHON ?= python3
PYTEST_WORKERS ?= 2

BIN := .venv/bin

# A strict editable install links the files that exist when it is made (type checkers need it), so the stamps carry a
# checksum of the list of files: adding, moving or removing one installs again. The links live in build/, and so do
# the stamps: they go together.
ROOMS := src/vigc $(patsubst %/__init__.py,%,$(wildcard */__init__.py))
FILES := $(shell find $(ROOMS) -type f -not -path '*/__pycache__/*' | LC_ALL=C sort | cksum | cut -d ' ' -f 1)
DEV := build/.installed-dev-$(FILES)
RUN := build/.installed-run-$(FILES)
# pip shows what it downloads. Once a target is installed, a further time only makes links again, as a rule.
PIP_INSTALL = $(BIN)/python -m pip install $(if $(wildcard $(@:$(FILES)=*)),--quiet) --disable-pip-version-check \
	--constraint constraints.txt --config-settings editable_mode=strict

export HF_HUB_OFFLINE := 1
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false

.PHONY: help install demo tiny study test test-all lint format types security wheel clean
.DELETE_ON_ERROR:

help:  ## list the targets
	@sed -nE 's/^([a-z-]+):.*  ## (.*)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 18

install: $(DEV)  ## install the package and the developer's tools into .venv

.venv/pyvenv.cfg:
	$(PYTHON) -m venv .venv
	@touch $@

$(DEV): .venv/pyvenv.cfg pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[dev]'
	@rm -f build/.installed-*
	@touch $@

$(RUN): .venv/pyvenv.cfg pyproject.toml constraints.txt
	$(PIP_INSTALL) --editable '.[convert]'
	@rm -f build/.installed-*
	@touch $@

# Needs no developer's tools, so it installs fewer packages unless they are there already.
demo: $(if $(wildcard build/.installed-dev-*),$(DEV),$(RUN))  ## rendered scenes to a dataset and a report, with the embedded model
	rm -rf build/demo
	@# 3: complete, but some texts were no pairs and were set aside, as a tiny model's sometimes are.
	$(BIN)/vigc demo --output build/demo || [ $$? -eq 3 ]

tiny: $(DEV)  ## train the embedded model anew, from nothing (about 50 minutes on two cores)
	$(BIN)/python recipes/tiny/train.py --output build/vigc-tiny --checkpoints build/vigc-tiny-stages

study: $(DEV)  ## train and measure the models of docs/study.md, and write that page
	$(BIN)/python benchmarks/study_scenes.py

test: $(DEV)  ## run the tests, less the full counts
	$(BIN)/pytest -n $(PYTEST_WORKERS) --dist worksteal -rs -m "not slow"

test-all: $(DEV)  ## run every test, full counts too
	$(BIN)/pytest -n $(PYTEST_WORKERS) --dist worksteal -rs

lint: types security  ## check style, format, types and security
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(DEV)  ## apply the style, and copy the code that travels into the embedded model
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python recipes/tiny/embed.py

types: $(DEV)  ## check the types of the installed package
	$(BIN)/mypy

security: $(DEV)  ## look for insecure code (bandit, medium and above)
	$(BIN)/bandit --quiet --recursive -ll $(ROOMS) recipes

# build/lib would bring files that no longer exist into the wheel.
wheel: $(DEV)  ## build dist/vigc-*.whl
	rm -rf build/lib build/bdist.*
	$(BIN)/python -m build --wheel --no-isolation --outdir dist .

clean:  ## remove all that was made, except .venv
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache
	find . -path ./.venv -prune -o -type d -name __pycache__ -exec rm -rf {} +
