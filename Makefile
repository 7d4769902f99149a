# `make demo` runs the whole flow on drawn data; `make test` runs the tests. Both set up .venv first.

PYTHON ?= python3
VENV := .venv
UV := $(VENV)/bin/uv
RUN := $(VENV)/bin
CORES ?= 2
# Images of containers set it; a run starts a process for every job, and each would compile the sources again.
unexport PYTHONDONTWRITEBYTECODE
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test test-long fuzz storm check check-python docs format lock ops setup bench-ops bench-infer bench-refine bench-score bench-scores bench-rare-class bench-pseudo plan gpu-check clean-venv

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

setup: $(READY)  ## set up .venv with the pinned packages (UNLOCKED=1: the newest allowed, for Python 3.10 and 3.12)

$(READY): envs/requirements.txt pyproject.toml cuda_ops/pyproject.toml
	@echo "Setting up $(VENV) (about 5 GB with torch)"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if v == (3, 11) or "$(UNLOCKED)" and (3, 10) <= v <= (3, 12) else f"The pinned packages are for Python 3.11, {sys.executable} is {v[0]}.{v[1]}; set PYTHON=/path/to/python3.11, or UNLOCKED=1 for the newest packages on Python 3.10 to 3.12")'
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "Python has no venv module: apt-get install python3-venv"; exit 1; }
	@test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	@test -x $(UV) || $(RUN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: -r envs/uv.txt
ifdef UNLOCKED
	$(UV) pip install --quiet --compile-bytecode --python $(RUN)/python --override envs/overrides.txt opencv-python-headless setuptools \
	    --group dev -e ".[$$($(RUN)/python -c 'import sys; print("all" if sys.version_info >= (3, 11) else "train,refine,report,fast,video,cli,export,transformers,timm")')]" -e cuda_ops
else
	$(UV) pip install --quiet --compile-bytecode --python $(RUN)/python --no-deps --require-hashes -r envs/requirements.txt
	$(UV) pip install --quiet --python $(RUN)/python --no-deps --no-build-isolation -e . -e cuda_ops
endif
	@touch $@

demo: $(READY)  ## run the whole flow on the default config (drawn data, small models, no GPU needed)
	$(RUN)/snakemake --cores $(CORES)

test: $(READY)  ## run the test suite
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest --numprocesses $(CORES) --dist loadgroup --no-loadscope-reorder $(PYTEST)

test-long: $(READY)  ## run the tests of a minute or more, which `make test` leaves out: kills, races, the largest models
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest --numprocesses $(CORES) --dist loadgroup --no-loadscope-reorder -m long $(PYTEST)

fuzz: $(READY)  ## random configs, tables, masks, stored files and checkpoints, for minutes (FUZZ_EXAMPLES=3000)
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),3000) $(RUN)/python -m pytest --numprocesses $(CORES) tests/fuzz

storm: $(READY)  ## kill every stage at random moments, then compare with an undisturbed run (KILLS=5 per stage; an hour)
	$(RUN)/python -m tests.workflow.storm --kills $(or $(KILLS),5) $(STORM)

check: check-python  ## ruff, mypy, snakefmt, snakemake --lint
	$(RUN)/snakefmt --check Snakefile workflow
	$(RUN)/snakemake --lint

check-python: $(READY)  ## the part of `make check` that needs no Snakemake
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

format: $(READY)  ## rewrite the sources as `make check` wants them
	$(RUN)/ruff check --fix .
	$(RUN)/ruff format .
	$(RUN)/snakefmt Snakefile workflow

docs: $(READY)  ## build the documentation site into build/docs; a link that leads nowhere is an error
	NO_MKDOCS_2_WARNING=1 $(RUN)/mkdocs build --strict --quiet

ops: $(READY)  ## compile for this machine (optional: faster DCNv3, deformable attention and scoring)
	$(RUN)/python -m vss_ops.build
	$(RUN)/python -m vss.core.compiled

bench-ops: $(READY)  ## DCNv3 and deformable attention against pure PyTorch
	$(RUN)/python -m benchmarks.ops

bench-infer: $(READY)  ## the inference engine against MMSegmentation's test-time augmentation
	$(RUN)/python -m benchmarks.infer

bench-refine: $(READY)  ## refinement against SSA's authors, CascadePSP's package and SAM's generator
	$(RUN)/python -m benchmarks.refine

bench-score: $(READY)  ## scoring against the official evaluator's loop
	$(RUN)/python -m benchmarks.score

bench-scores: $(READY)  ## stored class scores against dense ones
	$(RUN)/python -m benchmarks.scores

bench-rare-class: $(READY)  ## class weights and rare class sampling, three seeds of a drawn set (an hour)
	$(RUN)/python -m benchmarks.rare_class

bench-pseudo: $(READY)  ## what a student gains on its teacher with half of the labels (drawn data)
	$(RUN)/python -m benchmarks.pseudo

gpu-check: $(READY)  ## all that only a GPU can show, in under 8 minutes (REHEARSE=--rehearse: on the CPU)
	$(RUN)/python -m benchmarks.gpu_check $(REHEARSE)

plan: $(READY)  ## draw which room imports which, with line counts
	$(RUN)/python tools/imports.py

lock: $(READY)  ## resolve envs/requirements.in again (UPGRADE=--upgrade: to the newest versions)
	$(UV) pip compile envs/requirements.in --override envs/overrides.txt --python-version 3.11 \
	    --python-platform x86_64-manylinux_2_28 --generate-hashes --no-header --quiet $(UPGRADE) -o envs/requirements.txt

clean-venv:  ## remove .venv
	rm -rf $(VENV)
