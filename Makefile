# Every target installs what it needs first, so that each of them works in a fresh checkout.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -q -c constraints.txt
# Two terminals may install at once: the second waits for the first and then finds nothing left to do.
ALONE := @mkdir -p $(VENV) && $(PYTHON) -c 'import fcntl, os, sys; lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); \
	os.set_inheritable(lock, True); fcntl.flock(lock, fcntl.LOCK_EX); os.execvp(sys.argv[2], sys.argv[2:])' $(VENV)/.lock
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: runtime dev tools serve test test-programs test-rest lint lock bench clean

runtime:  ## install what serving needs
	$(ALONE) $(MAKE) -s $(VENV)/.runtime

dev:  ## install everything: serving, training, tests, style
	$(ALONE) $(MAKE) -s $(VENV)/.dev

tools:  ## unpack Prometheus, promtool, amtool and Redis for the tests (Debian)
	$(ALONE) tests/deploy/fetch-tools build/tools

$(VENV)/.runtime: pyproject.toml constraints.txt
	@echo "Installing 2 GB into $(VENV), which takes one to five minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime
	@echo "Installing what training and tests need into $(VENV)."
	$(PIP) -e ".[dev]"
	@touch $@

serve: runtime  ## start the service on http://127.0.0.1:8000 with the bundled weights
	$(BIN)/omnitok serve --generator bundles/demo-lm

# One run uses one core, so there are two. They take about as long as each other: the tests that start clusters, Prometheus
# and a browser, with those of kernels, and all others.
PROGRAMS := tests/service/cluster tests/deploy tests/service/api/test_page.py tests/kernels
test: dev  ## run every test, in two processes
	$(MAKE) -s -j2 test-programs test-rest

test-programs: dev
	$(BIN)/python -m pytest $(PROGRAMS)

test-rest: dev
	$(BIN)/python -m pytest $(PROGRAMS:%=--ignore=%)

lint: dev  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The index of the CPU wheels of torch, or a folder of them.
TORCH_CPU ?= https://download.pytorch.org/whl/cpu
LOCK := $(BIN)/uv pip compile -q --generate-hashes --no-annotate --python-version 3.11 --custom-compile-command 'make lock'
lock: runtime  ## write deploy/locks anew: every package of the image, with its hashes
	$(PIP) uv
	$(LOCK) -c constraints.txt $(if $(findstring ://,$(TORCH_CPU)),--index-strategy unsafe-best-match --extra-index-url,--find-links) $(TORCH_CPU) --extra otlp --extra redis pyproject.toml -o deploy/locks/cpu.txt
	$(LOCK) -c constraints.txt --extra otlp --extra redis pyproject.toml -o deploy/locks/cuda.txt
	$(LOCK) deploy/locks/tools.in -o deploy/locks/tools.txt

bench: dev  ## print the timing tables
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
