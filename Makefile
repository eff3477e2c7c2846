# make demo   the three stages on what ships with align, then where the report is
# make test   the tests; `make test-all` adds the slow ones
# make test-slurm  installs Slurm on this machine (Debian, root), starts it and has it run jobs
# make test-vllm  runs what needs vLLM, on CPUs, in an environment of its own (build/venv-vllm)
# make check  format, lint, types, generated docs, architecture
# make venv   only the environment, in .venv
# make clean  remove what the tools left (not .venv, not runs/)

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed-for
TYPES := build/src/align
VLLM := build/venv-vllm
VLLM_STAMP := $(VLLM)/installed-for

.PHONY: venv demo test test-all test-slurm test-vllm check types clean

# A moved or copied checkout would run the code of the tree that its environment was made for.
ifneq ($(shell cat $(STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(STAMP)
endif
ifneq ($(shell cat $(VLLM_STAMP) 2>/dev/null),$(CURDIR))
.PHONY: $(VLLM_STAMP)
endif

# One clear line for what is missing, before anything is downloaded.
define REQUIREMENTS
@command -v $(PYTHON) > /dev/null || \
	{ echo "align: no '$(PYTHON)' here; install Python 3.11 or newer, or name it: make PYTHON=..." >&2; exit 2; }
@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	{ echo "align: $$($(PYTHON) -V 2>&1) is too old; name Python 3.11 or newer: make PYTHON=python3.11" >&2; exit 2; }
@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
	{ echo "align: $(PYTHON) cannot make virtual environments; on Debian: apt install python3-venv" >&2; exit 2; }
@command -v "$${CXX:-c++}" > /dev/null || \
	{ echo "align: no C++ compiler '$${CXX:-c++}' here; on Debian: apt install g++" >&2; exit 2; }
@$(PYTHON) -c 'import os, sysconfig as s; open(os.path.join(s.get_path("include"), "Python.h"))' 2> /dev/null || \
	{ echo "align: the C headers of $(PYTHON) are missing; on Debian: apt install python3-dev" >&2; exit 2; }
endef

venv: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(REQUIREMENTS)
	@test "$$(cat $@ 2>/dev/null)" = "$(CURDIR)" || rm -rf $(VENV)
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev,gguf]'
	$(BIN)/python -m align.pipeline.shared_memory_op
	@printf '%s' "$(CURDIR)" > $@

demo: venv
	@$(BIN)/align run --config configs/demo.yaml --run-dir runs/demo
	@echo "Report: $(CURDIR)/runs/demo/report.html"

test: venv
	$(BIN)/python -m pytest -m "not slow" --ignore tests/slurm

test-all: venv
	$(BIN)/python -m pytest

test-slurm: venv
	@command -v slurmctld > /dev/null || test -x /usr/sbin/slurmctld || \
		apt-get install --yes --no-install-recommends slurm-wlm munge
	$(BIN)/python -m pytest tests/slurm tests/test_pipeline_submit_slurm.py

test-vllm: $(VLLM_STAMP)
	$(VLLM)/bin/python -m pytest tests/test_policy_vllm_weights.py tests/test_policy_vllm_engine.py \
		tests/test_pipeline_vllm.py

# Its pins are the whole set and are not resolved: constraints-vllm.txt says why.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	$(REQUIREMENTS)
	@test "$$(cat $@ 2>/dev/null)" = "$(CURDIR)" || rm -rf $(VLLM)
	@test -d $(VLLM) || $(PYTHON) -m venv $(VLLM)
	$(VLLM)/bin/python -m pip install --no-deps --requirement constraints-vllm.txt
	$(VLLM)/bin/python -m pip install --no-deps --editable .
	$(VLLM)/bin/python -m align.pipeline.shared_memory_op
	@printf '%s' "$(CURDIR)" > $@

check: venv
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	@$(MAKE) --no-print-directory types
	$(BIN)/python -m align.pipeline.reference --check
	$(BIN)/python -m pytest -q tests/test_architecture.py

types: $(TYPES)
	$(BIN)/mypy

$(TYPES):
	@mkdir -p $(@D)
	@ln -sfn ../.. $@

clean:
	rm -rf build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
