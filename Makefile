# Everything runs in .venv, which `setup` makes and keeps up to date; it costs nothing when nothing has changed.
# Paths are relative, so that a folder with spaces in its name works.
.DEFAULT_GOAL := help
.PHONY: help setup peers demo test quick check lint types imports docs bench clean

PYTHON := .venv/bin/python
NCTOOL := .venv/bin/nctool
BROWSER := $(shell command -v chromium chromium-browser google-chrome)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

setup: ## make .venv (Python 3.10, with Lava) or bring it up to date
	@scripts/setup.sh

peers: ## make .venv-peers (Python 3.11), with the libraries that benchmarks/peers.py and conversion.py measure against
	@scripts/setup.sh peers

demo: setup ## train a small network, export it, run it in three engines and verify it bit for bit
	$(NCTOOL) demo -o runs/digits-cnn

test: setup ## run the test suite, Lava included, one worker a core; COVERAGE=yes measures what it reaches
	@rm -rf .cache/coverage && mkdir -p .cache/coverage
	$(if $(BROWSER),,@echo "no Chromium here, so the tests of pages are left out: apt-get install chromium")
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses auto --maxprocesses 8 $(if $(COVERAGE),--cov) $(if $(BROWSER),,-m "not browser")

quick: setup ## run the tests that take moments, for the loop while working: under a minute
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses auto --maxprocesses 8 -m "not slow and not lava and not brian and not browser"

check: lint types imports docs test ## everything a change must pass

lint: setup ## ruff: rules and format
	$(PYTHON) -m ruff check
	$(PYTHON) -m ruff format --check

types: setup ## mypy, strict
	$(PYTHON) -m mypy

imports: setup ## import-linter: which package may import which
	.venv/bin/lint-imports

docs: setup ## build the site into build/docs; runs the tutorials, and takes a warning for an error
	OMP_NUM_THREADS=1 $(PYTHON) -m sphinx --builder html --fresh-env --doctree-dir build/doctrees --jobs auto --nitpicky --fail-on-warning --keep-going --quiet docs build/docs

bench: setup ## run the benchmarks; the last line of each is a JSON object
	@set -e; for script in benchmarks/[!_]*.py; do \
	    echo "== $$script"; $(PYTHON) "$$script"; \
	done

clean: ## delete environments, caches and builds; runs/ and data/ stay
	rm -rf .venv .venv-core .venv-peers build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
