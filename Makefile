# Environments, tests and the demo. `make help` lists the targets.
#
#   LANE=tf221 (default, in .venv) or LANE=tf215 (in .venv-tf215)
#   PYTHON=...   interpreter to create the environment with
#   JOBS=2       test processes; each loads TensorFlow, about 1 GiB
#   TESTS=...    files or folders to test
#   ARGS=...     more arguments for pytest

LANE ?= tf221
JOBS ?= 2
TESTS ?= tests
ARGS ?=
# A file's tests stay in one process, which then makes what they share once.
SPREAD := -n $(JOBS) --dist loadfile --no-loadscope-reorder

ifeq ($(LANE),tf221)
VENV := .venv
VERSIONS := 3.10 to 3.13
LAST_MINOR := 13
CANDIDATES := python3 python3.13 python3.12 python3.11 python3.10
else ifeq ($(LANE),tf215)
VENV := .venv-tf215
VERSIONS := 3.10 or 3.11
LAST_MINOR := 11
CANDIDATES := python3.11 python3.10 python3
else
$(error unknown LANE '$(LANE)': expected tf221 or tf215)
endif

# Interpreters that pyenv has but does not offer on the PATH, newest first.
PYENV := $(or $(PYENV_ROOT),$(HOME)/.pyenv)/versions
CANDIDATES += $(foreach minor,13 12 11 10,$(wildcard $(PYENV)/3.$(minor).*/bin/python))

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
QUIET := TF_CPP_MIN_LOG_LEVEL=2

.DEFAULT_GOAL := help
.PHONY: help setup test test-all lint types demo bench docs clean distclean

help: ## lists the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12
	@echo "Variables: LANE=tf221|tf215 PYTHON= JOBS= TESTS= ARGS="

setup: $(STAMP) ## prepares the environment, if it is not up to date
	@:

# The stamp is written last and removed first, so an interrupted run is noticed. It
# holds the checkout's path, because an environment does not survive a move. The
# environment's own interpreter reads it, so a removed Python is noticed too.
ifneq ($(shell $(BIN)/python -c "print(open('$(STAMP)').read())" 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif

# A changed list of requirements updates the environment; anything else starts anew.
$(STAMP): setup.cfg pyproject.toml constraints/$(LANE).txt
	@set -e; \
	held=$$($(BIN)/python -c "print(open('$(STAMP)').read())" 2>/dev/null || true); \
	if [ "$$held" != "$(CURDIR)" ]; then \
	  test='import ensurepip, sys, venv; \
	sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, $(LAST_MINOR)))'; \
	  found=; \
	  for python in $(or $(PYTHON),$(CANDIDATES)); do \
	    if "$$python" -c "$$test" >/dev/null 2>&1; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "make: lane $(LANE) needs Python $(VERSIONS) with venv and pip;" \
	      "none of these is one: $(or $(PYTHON),$(CANDIDATES))." \
	      "Install one (on Debian also its -venv package)," \
	      "or name it: make setup LANE=$(LANE) PYTHON=/path/to/python" >&2; \
	    exit 1; \
	  fi; \
	  rm -rf $(VENV); \
	  "$$found" -m venv $(VENV); \
	fi; \
	rm -f $(STAMP); \
	echo "Preparing $(VENV) ($$($(BIN)/python -V), lane $(LANE)): one to three minutes"; \
	if ! $(BIN)/python -m pip install --disable-pip-version-check --no-input \
	    -c constraints/$(LANE).txt -e '.[dev]' >$(VENV)/install.log 2>&1; then \
	  tail -n 20 $(VENV)/install.log >&2; \
	  echo "make: the installation failed; all of it: $(VENV)/install.log" >&2; \
	  exit 1; \
	fi; \
	printf '%s' "$(CURDIR)" >$(STAMP)

test: $(STAMP) ## runs all tests but the slow ones
	@$(QUIET) $(BIN)/python -m pytest --no-header $(SPREAD) $(ARGS) $(TESTS)

test-all: ## runs all tests, slow ones included, on both lanes
	@$(MAKE) --no-print-directory test LANE=tf221 ARGS="--slow $(ARGS)"
	@$(MAKE) --no-print-directory test LANE=tf215 ARGS="--slow $(ARGS)"

lint: $(STAMP) ## checks style and formatting
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check .

types: $(STAMP) ## checks types
	@$(BIN)/python -m mypy --no-error-summary tfr_pipeline

demo: export TF_CPP_MIN_LOG_LEVEL = 2
demo: $(STAMP) ## makes data, trains, evaluates and ranks, in demo/
	@rm -rf demo
	@$(BIN)/tfr-pipeline synthesize --output=demo/text
	@for split in train valid test; do \
	  $(BIN)/tfr-pipeline convert --input=demo/text/$$split.txt \
	    --input_format=libsvm --output=demo/data --split=$$split || exit; \
	done
	@$(BIN)/tfr-pipeline train --config=configs/demo.py \
	  --config.data.dir=demo/data --config.model_dir=demo/run
	@$(BIN)/tfr-pipeline predict --model=demo/run --input=demo/text/test.txt \
	  --output=demo/ranking.tsv
	@echo; echo "The test lists, which the model has not seen:"
	@$(BIN)/tfr-pipeline evaluate --model=demo/run --data='demo/data/test-*' \
	  --output=demo/evaluation.json --baselines
	@echo "data: demo/data; run: demo/run; ranking: demo/ranking.tsv; TensorBoard:" \
	  "$(BIN)/tensorboard --logdir=demo/run/logs"
	@echo "models to serve:" demo/run/export/*/*

bench: $(STAMP) ## measures speed beside TF-Ranking's pipeline, in bench/ (an hour)
	@$(BIN)/python tests/bench/speed.py --output=bench $(ARGS)
	@$(BIN)/python tests/bench/scaling.py --output=bench

docs: $(STAMP) ## builds the documentation, in docs/_build/html
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
	  -c constraints/$(LANE).txt -e '.[docs]'
	@$(BIN)/python -m sphinx -q -W -b html docs docs/_build/html

clean: ## removes the demo, the benchmark, caches and builds
	@rm -rf demo bench build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find . -name __pycache__ -not -path './.venv*' -prune -exec rm -rf {} +

distclean: clean ## removes the environments too
	@rm -rf .venv .venv-tf215
