# Each target sets up all it needs, in a virtual environment of its own.
#   make demo    light install, a question answered twice by a real model: at full depth and under a budget
#   make test    full install, all checks and tests; properties are tried on few examples
#   make coverage   the tests again, counted line by line
#   make test-long  the same properties on many examples, and the tests marked long
#   make test-arm  the device side's tests on an emulated aarch64 machine (qemu), with the wheels that a Jetson takes
#   make gpu     on a machine with CUDA: its tests, then exits, lossless decoding and contention measured on it
#   make gpu-train DATA=self:replies.jsonl   exits of a real model trained on a GPU in ten minutes, into runs/gpu
#   make lint | types | docs | bench | wheel-test | clean

PYTHON ?= python3
RUN_VENV := .venv-run
DEV_VENV := .venv-dev
# The GPU build of ONNX Runtime where there is an NVIDIA GPU, else the CPU build. A Jetson brings NVIDIA's own wheel.
RUNTIME ?= $(shell if [ -e /dev/nvidiactl ] || [ -e /dev/nvhost-gpu ]; then echo gpu; else echo cpu; fi)
# What make demo asks; the command has a question of its own.
PROMPT ?=
# What test-long runs.
LONG ?= long or hypothesis
# How many broken versions of each kind of file test-long tries.
MUTATIONS ?= 20000
# What gpu-train trains the exits of, and on what.
MODEL ?= smollm2-135m
DATA ?= self
# Processes that tests are spread over.
JOBS ?= $(shell nproc)
SPREAD := -n $(JOBS) --maxprocesses 8 --dist worksteal

.PHONY: demo test test-long test-arm lint types docs coverage bench gpu gpu-train wheel-test clean

demo: $(RUN_VENV)/.ready
	$(RUN_VENV)/bin/balcony-edge demo $(if $(PROMPT),-p "$(PROMPT)")

test: lint types $(DEV_VENV)/.ready
	$(DEV_VENV)/bin/python -m pytest $(SPREAD) -m "not long"

test-long: $(DEV_VENV)/.ready
	BALCONY_MUTATIONS=$(MUTATIONS) $(DEV_VENV)/bin/python -m pytest $(SPREAD) -m "$(LONG)" --hypothesis-profile long

# A Debian machine without root will do: what is missing is unpacked into .venv-arm.
test-arm: $(DEV_VENV)/.ready
	PYTHONPATH=tests:. $(DEV_VENV)/bin/python -m arm .venv-arm $(SPREAD)

lint: $(DEV_VENV)/.ready
	$(DEV_VENV)/bin/ruff check .
	$(DEV_VENV)/bin/ruff format --check .
	$(DEV_VENV)/bin/lint-imports
	$(DEV_VENV)/bin/python docs/generate_cli.py --check

types: $(DEV_VENV)/.ready
	$(DEV_VENV)/bin/mypy

# The same tests, with every line counted: they take half as long again.
coverage: $(DEV_VENV)/.ready
	$(DEV_VENV)/bin/python -m pytest $(SPREAD) -m "not long" --cov --cov-report=term:skip-covered

# The page of the command line written anew, then the site into site/; a broken link fails. docs/families.md has a
# command of its own (half a minute): python docs/generate_families.py
docs: $(DEV_VENV)/.ready
	$(DEV_VENV)/bin/python docs/generate_cli.py
	NO_MKDOCS_2_WARNING=1 $(DEV_VENV)/bin/python -m mkdocs build --strict --quiet

bench: $(DEV_VENV)/.ready
	$(DEV_VENV)/bin/python benchmarks/budget.py

gpu: $(DEV_VENV)/.ready
	$(DEV_VENV)/bin/balcony-edge doctor
	$(DEV_VENV)/bin/python -m pytest -q tests/engine/test_providers.py
	$(DEV_VENV)/bin/python benchmarks/depths.py --provider cuda --precision fp16
	$(DEV_VENV)/bin/python benchmarks/depths.py --provider cuda --precision int4
	$(DEV_VENV)/bin/python benchmarks/lossless.py --provider cuda --precision bf16 --shape smollm2-135m --drafts 3
	$(DEV_VENV)/bin/balcony-edge bench runs/lossless/smollm2-135m-bf16-cuda --provider cuda -p 128 -n 128
	$(DEV_VENV)/bin/python benchmarks/contention.py runs/lossless/smollm2-135m-bf16-cuda --provider cuda

gpu-train: $(DEV_VENV)/.ready
	$(DEV_VENV)/bin/python benchmarks/gpu_train.py $(MODEL) --data $(DATA) -o runs/gpu

# The built wheel in an environment that holds nothing else of the project.
wheel-test: $(DEV_VENV)/.ready
	rm -rf dist .venv-wheel
	$(DEV_VENV)/bin/python -m build --wheel --outdir dist
	$(PYTHON) -m venv .venv-wheel
	.venv-wheel/bin/pip install -q -c constraints.txt "$$(ls dist/*.whl)[$(RUNTIME),plot,serve]" pytest pytest-xdist hypothesis httpx
	.venv-wheel/bin/pytest -q $(SPREAD) -m "not long" -p no:cacheprovider -o pythonpath=tests --ignore=tests/export tests

$(RUN_VENV)/.ready: pyproject.toml
	$(PYTHON) -m venv $(RUN_VENV)
	$(RUN_VENV)/bin/pip install -q --disable-pip-version-check -e ".[$(RUNTIME),export]"
	touch $@

$(DEV_VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(DEV_VENV)
	$(DEV_VENV)/bin/pip install -q --disable-pip-version-check -c constraints.txt -e ".[$(RUNTIME),train,dev]"
	touch $@

clean:
	rm -rf .venv-run .venv-dev .venv-wheel .venv-arm dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage site
