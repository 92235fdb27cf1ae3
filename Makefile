# deadpeer. `make help` says what there is. Needs Python 3.11 or newer and make; all else goes into .venv.

PYTHON ?= python3
VENV := .venv
IN := $(VENV)/bin
READY := $(VENV)/.ready

# Side by side, by file: most of them wait. JOBS=0 for one after the other, with a debugger for example.
JOBS ?= 3

# Arguments for lab, test, interop, acceptance and seeds, for example: make lab ARGS="--rtt 100"
ARGS ?=

# No surprise from the shell's Python, no prompt, no notice of a newer pip.
unexport PYTHONHOME
unexport PYTHONPATH
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help setup lab test check interop acceptance seeds kernel format lock docs clean

help:
	@echo "make lab          crash a gateway and watch the other one find out   (ARGS=\"--help\" shows its options)"
	@echo "make test         run the tests; those that need root are skipped without it, and say so"
	@echo "                  (JOBS=3 at a time; ARGS=\"-k name\")"
	@echo "make check        what CI runs: format, lint, types, import contract, tests"
	@echo "make interop      the tests with an unmodified strongSwan            (needs root)"
	@echo "make acceptance   long series of crashes, measured, as a table       (ARGS=--quick for a few)"
	@echo "make seeds        random lives of clusters in virtual time           (ARGS=\"--count 1000 --members 5-8\")"
	@echo "make kernel       fetch Debian's kernel for the tests that boot a guest (70 MB, into ~/.cache/deadpeer)"
	@echo "make format       format the code and sort its imports"
	@echo "make docs         write docs/configuration.md from the schema"
	@echo "make lock         pin the dependencies anew                          (needs uv)"
	@echo "make clean        remove .venv and caches"
	@echo
	@echo "The first one sets up .venv with $(PYTHON); another Python: make PYTHON=python3.12 ..."

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "deadpeer needs Python 3.11 or newer, and $(PYTHON) is not; name one: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) lacks venv; on Debian: apt install python3-venv" >&2; exit 1; }
	@echo "Setting up .venv (once, and again when requirements.lock changes) ..."
	@$(IN)/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(IN)/python -m pip install -qq --require-hashes --requirement requirements.lock
	@$(IN)/python -m pip install -qq --no-deps --no-build-isolation --editable .
	@touch $@

lab: $(READY)
	@$(IN)/deadpeer lab $(ARGS)

test: $(READY)
	@$(IN)/python -m pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

interop: $(READY)
	@$(IN)/python -m pytest -q -m interop $(ARGS)

acceptance: $(READY)
	@$(IN)/python -m deadpeer.lab.acceptance $(ARGS)

seeds: $(READY)
	@$(IN)/python -m tests.support.seeds $(ARGS)

kernel: $(READY)
	@$(IN)/python -m tests.support.guest

check: $(READY)
	@echo "== format";          $(IN)/ruff format --check --quiet .
	@echo "== lint";            $(IN)/ruff check --quiet .
	@echo "== types";           $(IN)/mypy
	@echo "== import contract"; $(IN)/lint-imports --no-logo --no-cache
	@echo "== tests";           $(MAKE) --no-print-directory test

format: $(READY)
	@$(IN)/ruff check --quiet --fix --select I . ; $(IN)/ruff format .

docs: $(READY)
	@$(IN)/python -m deadpeer.gateway.reference > docs/configuration.md

lock:
	uv pip compile --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-annotate \
	  --no-header --extra dev --extra report --extra cluster pyproject.toml --output-file requirements.lock

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache
