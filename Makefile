# Everything runs in .venv, which is made from nothing but Python 3.11 or newer. What has been
# installed into it is remembered by stamps in it, so a second run starts at once.
#
#   make demo     segment held-out scenes with the trained networks; pictures in build/demo
#   make test     all tests but the slow ones (test-all: these, too)
#   make test-gpu all CUDA kernels on the first GPU (sanitize-gpu: under compute-sanitizer)
#   make check    formatting, lint and types
#   make bench    timings beside those of other libraries, and of start-up (bench-gpu: on a GPU,
#                 beside the PyTorch for CUDA that has been installed into .venv)
#   make clean    remove what was built (distclean: and .venv)

PYTHON  ?= python3
VENV    := .venv
BIN     := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
           --constraint constraints.txt

# TensorFlow is the reference: on the CPU, without its chatter, and with oneDNN, which is off on some
# CPUs and without which it cannot dilate a transposed convolution.
QUIET_TENSORFLOW := CUDA_VISIBLE_DEVICES= TF_CPP_MIN_LOG_LEVEL=3 TF_ENABLE_ONEDNN_OPTS=1

.PHONY: demo test test-all test-gpu sanitize-gpu check bench bench-gpu clean distclean
.DELETE_ON_ERROR:

demo: $(VENV)/.demo-installed
	$(BIN)/fcn demo --out build/demo

test: $(VENV)/.test-installed
	$(QUIET_TENSORFLOW) $(BIN)/python -m pytest -m "not slow and not gpu" $(ARGS)

test-all: $(VENV)/.test-installed
	$(QUIET_TENSORFLOW) $(BIN)/python -m pytest -m "not gpu" $(ARGS)

test-gpu: $(VENV)/.test-installed
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES-0} $(BIN)/python -m pytest -m gpu -rs tests/fastconv/cuda $(ARGS)

sanitize-gpu: $(VENV)/.sanitize-installed
	CUDA_VISIBLE_DEVICES=$${CUDA_VISIBLE_DEVICES-0} $(BIN)/python -m tests.fastconv.cuda.sanitize $(ARGS)

check: $(VENV)/.check-installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.bench-installed
	$(QUIET_TENSORFLOW) $(BIN)/python -m benchmarks.compare $(ARGS)
	$(QUIET_TENSORFLOW) $(BIN)/python -m pytest benchmarks --benchmark-columns=min,median,iqr,rounds

bench-gpu: $(VENV)/.bench-gpu-installed
	$(BIN)/python -m benchmarks.compare --device cuda $(ARGS)

clean:
	rm -rf build dist *.egg-info .benchmarks .mypy_cache .pytest_cache .ruff_cache
	find fastconv fcn tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

distclean: clean
	rm -rf $(VENV)

# pip comes last when an environment is made, so an interrupted one is made again.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit("fastconv needs Python 3.11 or newer, $(PYTHON) is " \
	    + sys.version.split()[0] + "; set PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: EXTRAS := demo
$(VENV)/.test-installed: EXTRAS := dev,verify,cuda
$(VENV)/.check-installed: EXTRAS := dev
$(VENV)/.sanitize-installed: EXTRAS := dev,cuda,sanitize
$(VENV)/.bench-installed: EXTRAS := bench
$(VENV)/.bench-gpu-installed: EXTRAS := bench-gpu

$(VENV)/.%-installed: pyproject.toml constraints.txt | $(BIN)/pip
	$(INSTALL) --editable '.[$(EXTRAS)]'
	@touch $@
