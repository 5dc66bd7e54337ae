# `make demo` shows the work, `make test` proves it; each alone sets up .venv on a fresh machine.
#
# Another interpreter:      make test PYTHON=python3.12
# torch for CPUs only:      PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make test

# ONNX Runtime must not report to its maker what is tried here.
export ORT_DISABLE_TELEMETRY := 1

PYTHON ?= python3
SUPPORTED := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))

VENV := .venv
BIN := $(VENV)/bin
MODEL := examples/demo_vlm/checkpoint
STAMP := $(VENV)/.installed
LATEST := .venv-latest
PYTHONS := 3.11 3.12 3.13
# The lock of the interpreter that makes .venv.
LOCK = constraints/$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt

.PHONY: demo demo-eval docs methods-report cpp cpp-archive cpp-aarch64 cpp-checks fuzz test test-all test-latest lock check wheel clean
.DEFAULT_GOAL := help

help:  ## List the targets.
	@sed -n 's/^\([a-z0-9-]*\):.*## /\1: /p' $(MAKEFILE_LIST) | awk -F': ' '{printf "make %-15s %s\n", $$1, $$2}'

demo: $(STAMP)  ## Export the demo model as a ladder and ask it about pictures.
	$(BIN)/python examples/demo.py

demo-eval: $(STAMP)  ## Ask the demo model 2,000 questions with Hugging Face's generate (minutes).
	$(BIN)/python examples/demo_vlm/evaluate.py --count 2000

docs: $(STAMP)  ## Write docs/methods.md, families.md, encoders.md, performance.md and what the C++ library takes from code and reports.
	$(BIN)/python runtimes/cpp/make_generated.py
	$(BIN)/python benchmarks/methods_page.py
	$(BIN)/python benchmarks/families_page.py
	$(BIN)/python benchmarks/encoders_page.py
	$(BIN)/python benchmarks/peers_page.py

methods-report: $(STAMP)  ## Ask the demo model 2,000 questions with every method (over half an hour), then docs.
	$(BIN)/python benchmarks/methods_report.py --model $(MODEL) --json docs/results/methods.json
	$(BIN)/python benchmarks/methods_page.py

cpp: $(STAMP)  ## Build the C and C++ library into build/cpp/shared; gets what that needs.
	runtimes/cpp/build.sh $(BIN)/python

cpp-archive: $(STAMP)  ## Pack the C and C++ library into build/cpp/archive/edgetok-*.tar.gz.
	runtimes/cpp/build.sh $(BIN)/python archive

cpp-aarch64: $(STAMP)  ## The same for 64-bit ARM, cross-compiled, into build/cpp/aarch64 (on Debian).
	runtimes/cpp/build.sh $(BIN)/python aarch64

cpp-checks: $(STAMP)  ## clang-tidy, the sanitizers, threads and a long run of the C and C++ library (an hour on two cores).
	runtimes/cpp/checks.sh $(BIN)/python

fuzz: $(STAMP)  ## Give the C++ readers random bytes for a minute; needs clang, keeps what it found.
	runtimes/cpp/build.sh $(BIN)/python fuzz
	$(BIN)/python benchmarks/cpp_seeds.py build/cpp/seeds
	mkdir -p build/cpp/corpus
	build/cpp/fuzz/fuzz_reader -max_total_time=60 -max_len=65536 -print_final_stats=1 -artifact_prefix=build/cpp/ \
	  build/cpp/corpus build/cpp/seeds runtimes/cpp/fuzz/corpus

test: $(STAMP)  ## Run the quick tests.
	$(BIN)/pytest -q

test-all: $(STAMP)  ## Run every test, the slow ones too.
	$(BIN)/pytest -q -m ""

test-latest:  ## Run the quick tests on the newest versions of everything, in an environment of its own.
	$(PYTHON) -m venv --clear $(LATEST)
	$(LATEST)/bin/python -m pip install --disable-pip-version-check -q -c constraints/latest.txt -e ".[dev]"
	$(LATEST)/bin/python -m pip freeze --disable-pip-version-check --exclude-editable
	$(LATEST)/bin/pytest -q

lock: $(STAMP)  ## Write constraints/ anew from pyproject.toml: the newest versions of everything.
	$(BIN)/python -m pip install --disable-pip-version-check -q uv
	for version in $(PYTHONS); do \
	  $(BIN)/uv pip compile -q pyproject.toml --extra dev -c constraints/direct.txt --python-version $$version \
	    --python-platform linux --no-header --no-annotate -o constraints/$$version.txt || exit 1; done

check: $(STAMP)  ## Lint, format check and types; the pre-commit hooks run the same.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

wheel: $(STAMP)  ## Build sdist and wheel into dist/ and try the wheel in a clean environment.
	rm -rf dist
	$(BIN)/python -m build --outdir dist .
	$(BIN)/pytest -q -m "" tests/packaging

clean:  ## Remove what was built; .venv stays.
	rm -rf build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(STAMP): pyproject.toml $(wildcard constraints/*.txt)
	@$(PYTHON) -c '$(SUPPORTED)' || { \
	  echo "edgetok needs Python 3.11, 3.12 or 3.13, and $(PYTHON) is $$($(PYTHON) -V 2>&1);" \
	       "name another one, such as: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 1; }
	@$(BIN)/python -c '$(SUPPORTED)' 2>/dev/null || $(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check -q -c $(LOCK) -e ".[dev]"
	@touch $@
