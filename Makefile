# make demo: install, then show the whole path.   make test: install, then run the tests.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
ARGS ?=

bin := $(VENV)/bin
install = $(bin)/python -m pip install -qq --disable-pip-version-check -c constraints.txt

.PHONY: help demo test lint types bench page clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    train two SAEs on the model that comes with Kanary and find concepts in them; ARGS='--out RUN'"
	@echo "make test    run the tests; ARGS='-m slow' for the slow ones"
	@echo "make lint    ruff: lint and format"
	@echo "make types   mypy --strict"
	@echo "make bench   time the training step, harvesting, the store, evaluation and the index"
	@echo "make page    build the web page from web/ (needs Node 20 or newer); what it builds is committed"
	@echo "make clean   remove the virtual environment and caches, keep runs/"

demo: $(VENV)/.core
	$(bin)/kanary demo $(ARGS)

test: $(VENV)/.dev
	$(bin)/python -m pytest -n auto --dist loadfile $(ARGS)

lint: $(VENV)/.dev
	$(bin)/ruff check
	$(bin)/ruff format --check

types: $(VENV)/.dev
	$(bin)/mypy

bench: $(VENV)/.dev
	$(bin)/python bench/train_step.py --json
	$(bin)/python bench/harvest.py
	$(bin)/python bench/store.py
	$(bin)/python bench/evaluate.py
	$(bin)/python bench/index.py

page:
	cd web && npm ci --no-audit --no-fund && npm run build

clean:
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests bench -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/.venv:
	@$(PYTHON) -c 'import sys; v = sys.version.split()[0]; sys.exit(sys.version_info < (3, 11) and \
		f"Kanary needs Python 3.11 or newer, {sys.executable} is {v}. Name another one: make PYTHON=python3.12")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.core: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "Installing Kanary into $(VENV) (a few minutes the first time) …"
	@$(install) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.venv pyproject.toml constraints.txt
	@echo "Installing Kanary and its test tools into $(VENV) (a few minutes the first time) …"
	@$(install) -e ".[dev]"
	@touch $@ $(VENV)/.core
