# What a person or CI runs: demo, test, acceptance, lint. Each makes its own virtual environment first.
PYTHON ?= python3
VENV ?= .venv
TORCH ?= 2.13.0
BIN := $(VENV)/bin

.PHONY: help demo frameworks test acceptance lint package fuzz bench clean

help:
	@echo "make demo        install into $(VENV), compress the bundled digits model, show the report"
	@echo "make frameworks  install torch and JAX into $(VENV), for the tests of their importers"
	@echo "make test        all tests that need nothing but this repository"
	@echo "make fuzz        the property tests, on new random examples"
	@echo "make acceptance  tests on the real models and data in EDGEDL_ASSETS"
	@echo "make lint        ruff and mypy"
	@echo "make package     build the wheel and try it in clean environments"

$(BIN)/activate:
	@echo "== making a virtual environment in $(VENV) with $$($(PYTHON) --version)"
	@$(PYTHON) -c 'import sys; sys.exit("edgedl needs Python 3.11 to 3.13, and this is " + sys.version.split()[0] + "; run make PYTHON=python3.11 ...") if not (3, 11) <= sys.version_info < (3, 14) else None'
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'

$(VENV)/.demo: $(BIN)/activate pyproject.toml
	@echo "== installing edgedl with TensorFlow and ONNX Runtime (about 2.3 GB; a few minutes the first time)"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[compress]'
	@touch $@

$(VENV)/.dev: $(VENV)/.demo
	@echo "== installing the test tools"
	@$(BIN)/pip install --quiet --disable-pip-version-check --group dev
	@touch $@

demo: $(VENV)/.demo
	@echo "== compressing examples/digits.keras to int8 .tflite and .onnx"
	@$(BIN)/edgedl compress examples/digits.keras --data digits --quantize int8 --format tflite,onnx --max-drop 1% -o demo-out
	@echo "== done; open demo-out/report.html in a browser"

frameworks: $(VENV)/.dev
	@echo "== installing the frameworks whose models are imported, tensorflow-model-optimization, the compiler and emulator of microcontrollers: torch $(TORCH), JAX and Flax"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[tfmot,mcu]'
	@$(BIN)/pip install --quiet --disable-pip-version-check 'torch==$(TORCH)' 'onnxscript>=0.7' || echo "no torch $(TORCH) here: its tests are skipped"
	@$(BIN)/pip install --quiet --disable-pip-version-check jax jaxlib flax msgpack || echo "no JAX here: its tests are skipped"

test: $(VENV)/.dev
	@echo "== running the tests (about ten minutes on two cores)"
	@$(BIN)/python -m pytest -q --durations=10 --numprocesses=2 --dist=loadfile

fuzz: $(VENV)/.dev
	@echo "== the property tests on examples that were never tried (make test always draws the same)"
	@$(BIN)/python -m pytest -q --hypothesis-profile=fuzz --numprocesses=2 --dist=loadfile $$(grep -rl "from hypothesis" tests --include="test_*.py")

acceptance: $(VENV)/.dev
	@echo "== running the acceptance tests on $${EDGEDL_ASSETS:-nothing: set EDGEDL_ASSETS to the folder of models and data}"
	@$(BIN)/python -m pytest -q -m acceptance --durations=10

lint: $(VENV)/.dev
	@echo "== ruff, mypy"
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

package: $(VENV)/.dev
	@echo "== building the wheel and trying it in clean environments"
	@$(BIN)/python -m pytest -q -m package tests/test_packaging.py

clean:
	rm -rf $(VENV) demo-out build dist *.egg-info
