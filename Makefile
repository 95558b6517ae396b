# `make figures` and `make test` work from nothing: Python >= 3.11, gcc, make and the package registries.
PYTHON ?= python3
CORES ?= all
SCALE ?= mini
GPUS ?= 1
VENV := .venv
# Snakemake, matplotlib and others keep caches in the home folder. Where these cannot be written, here.
ifeq ($(HOME),)
export HOME := $(CURDIR)/$(VENV)/home
endif
ifneq ($(shell test -w "$${HOME:-/dev/null}/." && echo yes),yes)
export MPLCONFIGDIR ?= $(CURDIR)/$(VENV)/home/.cache
endif
ifneq ($(shell cache="$${XDG_CACHE_HOME:-$${HOME:-/dev/null}/.cache}/snakemake"; mkdir -p "$$cache" 2> /dev/null; test -w "$$cache/." && echo yes),yes)
export XDG_CACHE_HOME := $(CURDIR)/$(VENV)/home/.cache
endif
# Snakemake asks who runs it, and a user of a container may have no entry in the list of users.
ifeq ($(LOGNAME)$(USER),)
export USER := $(shell id -un 2> /dev/null || id -u)
endif
# Not by the commands beside it: where the path of a clone holds a quote, their first line cannot name their Python.
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --disable-pip-version-check --no-deps
# Python compiles modules when they are first imported. Compiling every installed one now would take a minute.
unexport PYTHONDONTWRITEBYTECODE
# No lock of Snakemake's: it outlives a graph that is killed. The Snakefile keeps a second graph away by a lock that does not.
# Snakemake looks for new jobs once per timespan for every job that has ended; its default of a second costs 5 % of a core.
SNAKEMAKE := $(PY) -m snakemake --logger adasde --cores $(CORES) --resources gpu=$(GPUS) --nolock --rerun-incomplete \
  --max-jobs-per-timespan 1000/30s
CONFIG := --configfile workflow/config/$(SCALE).yaml
PYTEST := $(PY) -m pytest
# The files side by side on all cores.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

.PHONY: figures report test test-all faults test-slurm test-oldest lint docs bench bench-gpu cost-profiles reference clean env lock help

figures: env  ## install, fetch, train and plot everything, and say whether the paper replicates
	$(SNAKEMAKE) all $(CONFIG)
	@tail -n 5 results/$(SCALE)/logs/claims.log

report: env  ## results/SCALE/report.html: every figure and claim in one file to open or to send
	$(SNAKEMAKE) results/$(SCALE)/report.html $(CONFIG)

test: env  ## the tests of every module
	$(PYTEST) -m "not slow" $(PARALLEL)

test-all: env  ## every test that can run here; CI runs these
	$(PYTEST) $(PARALLEL)

faults: env  ## break things on purpose, and write docs/faults.csv; twelve minutes
	$(PYTEST) -m "not slurm" $(PARALLEL) --faults docs/faults.csv tests/workflow tests/scaling/test_documents.py \
	  tests/experiments/test_artifacts.py tests/training/test_checkpoint.py

test-slurm: env  ## the graph on a Slurm of this machine, and docs/cluster-faults.csv; needs root and what .ci/run installs
	$(PYTEST) -m slurm --faults docs/cluster-faults.csv tests/workflow/test_slurm.py

test-oldest:  ## the core's tests with the oldest torch and numpy that it takes, in .venv/oldest (5 GB)
	$(PYTHON) -m venv $(VENV)/oldest
	@# What the tests need themselves. Newer versions of pyarrow need numpy 2.
	$(VENV)/oldest/bin/pip install --quiet filelock hypothesis matplotlib pandas pydantic 'pyarrow<18' pytest pyyaml \
	  $$(sed -n 's/^dependencies = //p' pyproject.toml | sed 's/>=/==/g; s/[][",]//g')
	PYTHONPATH=src $(VENV)/oldest/bin/pytest tests/scaling

lint: env  ## style, types, import directions, packaging
	$(PYTEST) -q tests/test_setup.py

docs: env  ## docs/_build/index.html
	$(PY) docs/generate.py
	$(PY) -m sphinx -W --keep-going -q docs docs/_build

bench: env  ## speed as ratios to a bare training step and to the usual loader
	$(PY) benchmarks/training.py
	$(PY) benchmarks/sde.py
	$(PY) benchmarks/language.py
	$(PY) benchmarks/noise.py --quick
	$(PY) benchmarks/rescale.py
	$(PY) benchmarks/engines.py

bench-gpu: env  ## steps of the paper's workloads on a GPU by each engine, in less than five minutes
	$(PY) benchmarks/gpu.py --out results/gpu-steps

cost-profiles: env  ## count what each workload costs, for `adasde plan`
	$(PY) benchmarks/count_costs.py

reference: env  ## keep the tables, figures and speeds of a finished run as the reference
	test -f results/$(SCALE)/claims.csv
	rm -rf results/reference/$(SCALE)/forecasts figures/reference/$(SCALE)
	mkdir -p results/reference/$(SCALE) figures/reference/$(SCALE)
	cp -r results/$(SCALE)/*.parquet results/$(SCALE)/*.csv results/$(SCALE)/forecasts results/reference/$(SCALE)
	cp figures/$(SCALE)/*.png figures/reference/$(SCALE)
	$(PY) -m adasde throughput results/$(SCALE)/runs/*.parquet --out src/adasde/experiments/throughput.csv
	@# README shows one scale's map and claims.
	$(PY) -m adasde claims results/reference/$(SCALE) --spreads src/adasde/analysis/claims/spreads.csv \
	  $$(grep -q 'figures/reference/$(SCALE)/' README.md && echo --readme README.md)

clean:  ## delete what was built; the environment and the data stay
	rm -rf .snakemake results/smoke results/mini figures/smoke figures/mini docs/_build docs/generated

env: $(VENV)/installed  ## the environment in .venv, with the locked packages

$(VENV)/installed: envs/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it by make PYTHON=...")'
	@echo "1 of 3: an environment in $(VENV)"
	@$(PYTHON) -m venv $(VENV)
	@# One small package first: without a network pip would try each of the others six times, a page of warnings each.
	@$(PIP:install=download) --quiet --retries 0 --timeout 5 --dest $(VENV)/first "$$(grep -o '^idna==[0-9.]*' $<)" > $(VENV)/first.log 2>&1 \
	  || { echo "pip cannot fetch packages: $$(tail -n 1 $(VENV)/first.log). Is there a network? \`pip config list\` shows where it looks"; exit 1; }
	@# Two pips at once, because unpacking takes a core: torch with its part of CUDA, which shows what it does, and the rest.
	@awk '/^[^ #]/ {large = /^(cuda|nvidia|torch=|triton)/} large' $< > $(VENV)/large.lock
	@awk '/^[^ #]/ {large = /^(cuda|nvidia|torch=|triton)/} !large' $< > $(VENV)/rest.lock
	@echo "2 of 3: the locked packages, a minute or two; torch is shown, $$(grep -c == $(VENV)/rest.lock) smaller ones install beside it"
	@trap 'kill $$!' INT TERM; $(PIP) --quiet --no-compile --require-hashes -r $(VENV)/rest.lock & $(PIP) --no-compile --require-hashes -r $(VENV)/large.lock; \
	  large=$$?; echo "waiting for the smaller packages"; wait $$! && exit $$large
	@echo "3 of 3: adasde itself"
	@$(PIP) --quiet --no-build-isolation --editable .
	@touch $@

lock:  ## renew the lock file after a change of requirements.in; needs uv
	uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade envs/requirements.in -o envs/requirements.lock

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-13s %s\n", $$1, $$2}' Makefile
