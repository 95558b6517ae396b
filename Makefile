# `make figures` and `make test` work from nothing: Python >= 3.11, gcc, make and the package registries.
PYTHON ?= python3
CORES ?= all
SCALE ?= mini
GPUS ?= 1
VENV := .venv
PIP := $(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps
# Python compiles modules when they are first imported: to compile all that is installed takes a minute.
unexport PYTHONDONTWRITEBYTECODE
# Jobs write whole files or none, and two that do the same write the same: no lock is needed, and a killed graph
# leaves none behind; what it did not finish is done again.
SNAKEMAKE := $(VENV)/bin/snakemake --cores $(CORES) --resources gpu=$(GPUS) --nolock --rerun-incomplete
CONFIG := --configfile workflow/config/$(SCALE).yaml

.PHONY: env figures test test-slurm lint bench bench-gpu report reference clean lock

figures: env  ## install, fetch, train and draw everything, then print the claims
	$(SNAKEMAKE) all $(CONFIG)
	@cat results/$(SCALE)/logs/claims.log 2> /dev/null || $(VENV)/bin/adasde claims results/$(SCALE)

test: env  ## every test that can run here, the files side by side on all cores
	$(VENV)/bin/pytest -n auto --dist loadfile --no-loadscope-reorder

test-slurm: env  ## the graph on a Slurm of this machine; needs root and Debian's munge, slurmctld, slurmd, slurm-client
	$(VENV)/bin/pytest -m slurm tests/test_slurm.py

lint: env
	$(VENV)/bin/pytest -q tests/test_setup.py

bench: env  ## ratios to a bare step, to the usual loader, and of whole runs
	$(VENV)/bin/python benchmarks/training.py
	$(VENV)/bin/python benchmarks/sde.py
	$(VENV)/bin/python benchmarks/language.py

bench-gpu: env  ## steps of the paper's tasks on a GPU, three minutes
	$(VENV)/bin/python benchmarks/gpu.py

report: env  ## results/mini/report.html, one file to open or to send
	$(SNAKEMAKE) all $(CONFIG) --quiet
	$(VENV)/bin/snakemake --report results/$(SCALE)/report.new.html $(CONFIG)
	@# The search of Snakemake's reports looks for labels where there are none (9.x): it would find files by their paths alone.
	sed -e 's/result.columns || \[\]/Object.values(result.labels || {})/' -e 's/columnValue in columns/columnValue of columns/' \
	  results/$(SCALE)/report.new.html > results/$(SCALE)/report.part
	rm results/$(SCALE)/report.new.html
	mv results/$(SCALE)/report.part results/$(SCALE)/report.html

reference: env  ## keep the tables, figures and speeds of a finished run, and renew the README's claims
	mkdir -p results/reference/$(SCALE) figures/reference/$(SCALE)
	cp results/$(SCALE)/*.parquet results/$(SCALE)/runs.csv results/$(SCALE)/claims.csv results/reference/$(SCALE)
	cp figures/$(SCALE)/*.png figures/reference/$(SCALE)
	$(VENV)/bin/adasde throughput results/$(SCALE)/runs/*.parquet --out src/adasde/throughput.csv
	$(VENV)/bin/adasde claims results/reference/$(SCALE) --readme README.md

clean:  ## what was built, but neither the environment nor the data
	rm -rf .snakemake results/smoke results/mini figures/smoke figures/mini

env: $(VENV)/installed

$(VENV)/installed: envs/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed; name it by make PYTHON=...")'
	$(PYTHON) -m venv $(VENV)
	@echo "installing the locked packages, a minute or two"
	@# Two at once, since to unpack takes a core: torch with its part of CUDA, and all the rest.
	awk '/^[^ #]/ {large = /^(cuda|nvidia|torch=|triton)/} large' $< > $(VENV)/large.lock
	awk '/^[^ #]/ {large = /^(cuda|nvidia|torch=|triton)/} !large' $< > $(VENV)/rest.lock
	$(PIP) --no-compile --require-hashes -r $(VENV)/large.lock & $(PIP) --no-compile --require-hashes -r $(VENV)/rest.lock; \
	  rest=$$?; wait $$! && exit $$rest
	$(PIP) --no-build-isolation --editable .
	touch $@

lock:  ## after a change of requirements.in; needs uv
	uv pip compile --universal --python-version 3.11 --generate-hashes --upgrade envs/requirements.in -o envs/requirements.lock
