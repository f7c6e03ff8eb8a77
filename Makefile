# One set of recipes for people, hooks and CI. Every target sets itself up: `make demo` on a fresh clone is enough.
SHELL := /bin/bash
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# A cluster that happens to run on this machine must not be joined by demos and tests.
unexport RAY_ADDRESS

.PHONY: help demo test test-slow lint bench bench-gpu bench-tokenizer bench-encoder bench-storage distill docs lock clean
help:            ## show this list
	@grep -hE '^[a-z-]+: .*##|^[a-z-]+:  +##' Makefile | sed -E 's/:.*## /\t/' | expand -t 17

$(READY): requirements.lock pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -r requirements.lock
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation -e .
	@touch $@

demo: $(READY)   ## embed the docstrings of Python's standard library, start to finish
	$(BIN)/python -m jobs.demo

test: $(READY)   ## all tests but those of full size: half an hour or more on two cores
	$(BIN)/python -m pytest

test-slow: $(READY)   ## the full sizes: many kills, large files
	$(BIN)/python -m pytest -m slow --timeout 3600

lint: $(READY)   ## ruff, mypy --strict, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

PEERS := .venv-peers/.ready
$(PEERS): benchmarks/peers.txt
	@test -x .venv-peers/bin/python || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --quiet -r benchmarks/peers.txt
	@touch $@

bench: $(READY) $(PEERS)  ## side by side with peers, and at scale: writes benchmarks/results.md (hours)
	$(BIN)/python -m benchmarks $(SECTIONS)

bench-gpu: $(READY)  ## the encoder's share of a GPU's matrix rate, beside sentence-transformers
	$(BIN)/python -m benchmarks.gpu --model $(or $(MODEL),albert-mini)

CORPORA ?= .corpora
bench-tokenizer: $(READY)   ## ours beside AutoTokenizer, on texts from Debian's and Python's registries
	$(BIN)/python -m benchmarks.corpora $(CORPORA)
	$(BIN)/python -m benchmarks.tokenizer $(CORPORA) $(MODEL)

distill: $(READY)  ## make albert-mini anew (an hour and a half on two cores, into .distill)
	$(BIN)/python -m jobs.distill configs/distill.yaml

bench-encoder: $(READY)   ## ours beside transformers, sentence-transformers and the bare matrix product
	$(BIN)/python -m benchmarks.encoder $(CORPORA) --model $(or $(MODEL),albert-mini)

bench-storage: $(READY)   ## reading beside pyarrow and s3fs; listing and planning 100,000 objects
	$(BIN)/python -m benchmarks.reading
	$(BIN)/python -m benchmarks.listing

docs: $(READY)   ## make the pages that are made from code
	$(BIN)/python -m docs.configuration

lock:            ## resolve pyproject.toml anew into requirements.lock
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0 '.[dev]'
	{ sed -n '/^#/p' requirements.lock; .venv-lock/bin/python -m pip freeze --exclude albert-embedding-pipeline \
	  | grep -vE '^(nvidia|cuda|triton)' | sed 's/+cpu$$//'; } > requirements.new
	mv requirements.new requirements.lock && rm -rf .venv-lock

clean:           ## remove the demo's files (the venv stays)
	rm -rf .demo
