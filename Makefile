# Set-up, server, tests, checks. Everything lives in .venv; nothing else on the machine is touched.

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.set-up
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
PORT ?= 8000
HOST ?= 127.0.0.1

# Tests and checks never download anything.
OFFLINE := HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 TOKENIZERS_PARALLELISM=false

# Tests that run in one process, without Ray. They run beside the others, which wait for actors half of the time, and
# only take what those leave of the cores.
BESIDE := tests/actors/engine tests/rehearsal tests/k8s tests/cluster/demo \
	$(filter-out tests/serve_app/test_run.py,$(wildcard tests/serve_app/test_*.py))

.DEFAULT_GOAL := help
.PHONY: help setup run test check format bench gpu constraints clean

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(STAMP) ## create .venv and install everything with pinned versions

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make setup: no Python found; set PYTHON=/path/to/python3.11"; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "make setup: Python 3.11 or newer is needed, $(PYTHON) is older; set PYTHON=..."; exit 1; }
	@test -x $(BIN)/python || { echo "==> creating $(VENV) with $(PYTHON)"; "$(PYTHON)" -m venv $(VENV); }
	@echo "==> installing (a few minutes the first time)"
	$(BIN)/python -m pip install --disable-pip-version-check -c constraints.txt -e ".[dev]"
	@touch $@
	@echo "==> ready: make run, make test, make check"

run: setup ## set up, then serve the embedded pair (HOST=127.0.0.1 PORT=8000)
	@exec $(BIN)/slipstream serve --host $(HOST) --port $(PORT)

test: setup ## run the tests (no downloads)
	@$(OFFLINE) nice -n 19 $(BIN)/python -m pytest $(BESIDE) -p no:cacheprovider >$(VENV)/beside.log 2>&1 & beside=$$!; \
	trap 'kill $$beside' INT TERM; \
	$(OFFLINE) $(BIN)/python -m pytest tests $(addprefix --ignore=,tests/gpu $(BESIDE)) --durations=10; others=$$?; \
	echo "==> and beside these: $(BESIDE)"; wait $$beside; status=$$?; cat $(VENV)/beside.log; \
	exit $$((others || status))

check: setup ## lint, format, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: setup ## let ruff fix and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup ## measure speed on this machine
	$(OFFLINE) $(BIN)/python -m tests.benchmarks

gpu: setup ## run the tests and benchmarks that need CUDA
	@$(BIN)/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' \
		|| { echo "make gpu: torch sees no CUDA device here, so nothing was run"; exit 1; }
	$(OFFLINE) $(BIN)/python -m pytest tests/gpu --durations=10
	$(OFFLINE) $(BIN)/python -m tests.gpu.benchmarks

constraints: setup ## write constraints.txt anew from what is installed
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu$$//' > constraints.txt

clean: ## remove .venv, caches and build folders
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis
