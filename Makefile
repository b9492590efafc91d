# make serve   serve the embedded model at http://127.0.0.1:8000 (PORT=, HOST=)
# make test    lint, types and every test
# make soak    the long form of what tests/resilience has in short: MINUTES= of a server under load, and two hours more
# make audit   whether a package of constraints.txt has a known vulnerability (asks the package index)
# make platforms   whether what is needed can be installed on every platform (asks the package index)
PYTHON ?= python3
HOST ?= 127.0.0.1
PORT ?= 8000
MINUTES ?= 60
BIN := .venv/bin
comma := ,
# The CUDA libraries that ONNX Runtime loads, which are large: only where there is a GPU.
CUDA := $(if $(shell command -v nvidia-smi),$(comma)cuda)
CHECKS := check-types check-style check-imports check-security check-licenses
FUZZED := admission decoding tiling multipart packed infer
COMPILE_KERNELS := $(BIN)/python -c "from model.runtime.kernels import keypoints, masks, overlaps, regions; masks.warm_up(); keypoints.warm_up(); overlaps.warm_up(); regions.warm_up()"

.PHONY: serve test suite check $(CHECKS) audit soak platforms train-shapes clean

# The log alone goes to stdout; what make and the server say to people goes to stderr.
serve: .venv/serve.stamp
	@$(BIN)/maskserve serve --host $(HOST) --port $(PORT)

# The checks run beside the tests, which leave them time while servers start and end; what takes a moment comes first.
test: check-style
	@$(MAKE) --no-print-directory --jobs 2 --keep-going suite $(filter-out check-style,$(CHECKS)) || \
		{ echo 'make: a check or a test failed, see above; "make check" runs the checks alone' >&2; exit 1; }

# Networks are too small in tests to share out among threads. A file's tests share their servers, so they stay together,
# and begin in the order of tests/conftest.py. Four processes, for tests of servers wait more than they compute. They start
# hundreds, which read bytecode, where the environment would have each of them compile everything anew.
suite: .venv/all.stamp
	env -u PYTHONDONTWRITEBYTECODE OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests --numprocesses 4 --dist loadfile --no-loadscope-reorder

# mypy takes as long as the others together.
check: .venv/all.stamp
	@$(MAKE) --no-print-directory --jobs 2 $(CHECKS)

check-types check-style check-imports check-security check-licenses: .venv/all.stamp

check-types:
	$(BIN)/mypy

check-style:
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check-imports:
	$(BIN)/lint-imports

check-security:
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml model service training

check-licenses:
	$(BIN)/pip-licenses > /dev/null

# Strict: a package that the index knows nothing about would count as free of vulnerabilities.
audit: .venv/all.stamp
	$(BIN)/uvx pip-audit==2.10.1 --strict --no-deps --disable-pip --requirement constraints.txt

soak: .venv/all.stamp
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[fuzz]'
	$(BIN)/python -m tests.resilience.hostile --count 20000
	$(BIN)/python -m pytest tests/resilience/properties --hypothesis-profile long
	$(BIN)/python -m tests.resilience.kills --moments 25
	$(BIN)/python -m tests.resilience.kills_many
	for target in $(FUZZED); do $(BIN)/python -m tests.resilience.fuzz $$target --seconds 600 || exit 1; done
	$(BIN)/python -m tests.resilience.latency
	$(BIN)/python -m tests.resilience.growth
	$(BIN)/python -m tests.resilience.soak --minutes $(MINUTES)

platforms: .venv/all.stamp
	$(BIN)/python .ci/platforms.py

train-shapes: .venv/all.stamp
	$(BIN)/maskserve train

.venv/bin/python:
	@$(PYTHON) -m venv .venv

# The kernels are compiled once here, so that no start and no request waits for it.
.venv/serve.stamp: .venv/bin/python pyproject.toml constraints.txt
	@echo 'make: installing what serving needs into .venv (once)' >&2
	@$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[serve$(CUDA)]'
	@echo 'make: compiling kernels (once)' >&2
	@$(COMPILE_KERNELS)
	@touch $@

.venv/all.stamp: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,test$(CUDA)]'
	$(COMPILE_KERNELS)
	touch $@ .venv/serve.stamp

clean:
	rm -rf .venv .mypy_cache .ruff_cache
