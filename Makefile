# A fresh machine needs git, make, a C++17 compiler and Python 3.11 or newer; the rest is set up here.
SHELL := bash
# The first Python that runs and is new enough; name another with `make PY=python3.12`.
PY ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install -q -c constraints.txt
BUILD_TOOLS := "scikit-build-core>=1.1" "pybind11>=3" "setuptools-scm>=8" "cmake>=3.24" ninja

.PHONY: help demo test test-cpp test-emulated test-aarch64 test-slurm lint format types bench wheel-test fuzz clean
help: ## show this list
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-13s %s\n", $$1, $$2}'

$(VENV)/.ok: pyproject.toml CMakeLists.txt constraints.txt $(wildcard csrc/* csrc/*/* bindings/*)
	test -n "$(PY)" || { echo "Python 3.11 or newer must be on PATH; install it or name it with PY=..."; exit 1; }
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(PIP) torch $(BUILD_TOOLS)
	$(PIP) --no-build-isolation -e ".[test]"
	touch $@

demo: $(VENV)/.ok ## decode held-out time of two real recordings; writes demo_report/
	$(BIN)/attendrite demo

# Files of tests that run at a time.
AT_ONCE ?= 2
test: $(VENV)/.ok ## run the tests
	$(BIN)/pytest -q -n $(AT_ONCE) --dist loadfile

CPP := -G Ninja -DATTENDRITE_BUILD_PYTHON=OFF -DATTENDRITE_BUILD_TESTS=ON -DATTENDRITE_WERROR=ON \
	$(if $(shell command -v ccache),-DCMAKE_CXX_COMPILER_LAUNCHER=ccache)
test-cpp: $(VENV)/.ok ## C++ tests, and under the sanitizers
	set -e; export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	for build in cpp= cpp-asan=address,undefined cpp-tsan=thread; do \
	  cmake -S . -B build/$${build%=*} $(CPP) -DATTENDRITE_SANITIZE=$${build#*=} \
	    -DCMAKE_BUILD_TYPE=$$([ $$build = cpp= ] && echo Release || echo RelWithDebInfo) \
	    -DCMAKE_CXX_FLAGS_RELWITHDEBINFO="-O1 -g1"; \
	  cmake --build build/$${build%=*}; \
	  ctest --test-dir build/$${build%=*} --output-on-failure; \
	done

test-emulated: $(VENV)/.ok ## C++ tests of the AVX-512 levels on a CPU with AVX2 (apt-get install libsimde-dev)
	set -e; export PATH="$(CURDIR)/$(BIN):$$PATH"; \
	cmake -S . -B build/cpp-emulated $(CPP) -DATTENDRITE_EMULATE=ON; \
	cmake --build build/cpp-emulated; \
	ctest --test-dir build/cpp-emulated --output-on-failure

test-aarch64: $(VENV)/.ok ## C++ tests for 64-bit ARM under QEMU, where its tools are installed
	bash tests/aarch64.sh

test-slurm: $(VENV)/.ok ## tests of shards on a Slurm of one node, where Debian's packages are installed
	bash tests/slurm.sh

CPP_FILES = $$(git ls-files '*.cpp' '*.hpp' '*.h' '*.c' ':!csrc/third_party')
lint: $(VENV)/.ok ## ruff and clang-format, no changes made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP_FILES)

format: $(VENV)/.ok ## apply ruff and clang-format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP_FILES)

# mypy cannot follow the editable redirect: packages are laid out as installed, and paths mapped back.
LAID_OUT := build/types/attendrite
types: $(VENV)/.ok ## mypy --strict
	rm -rf build/types && mkdir -p build/types
	cp -r engine $(LAID_OUT) && cp -r kernels $(LAID_OUT)/kernels
	echo "__version__: str" > $(LAID_OUT)/_version.pyi
	cd build/types && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p attendrite \
	  | sed -e 's#^attendrite/kernels/#kernels/#' -e 's#^attendrite/#engine/#'; exit $${PIPESTATUS[0]}

bench: $(VENV)/.ok ## run the CPU benchmarks beside their peers; rows go to benchmarks/results/
	$(PIP) -e ".[peers]" --no-build-isolation
	OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python benchmarks/run.py binning tokenize group attention decode latency ablation fields fits --json benchmarks/results
	$(BIN)/python benchmarks/tables.py

# What packaging can break: files that are missing, the libraries, the commands, and once every extra
# among those of [test] that needs no GPU: dask and slurm are WHEEL_WORKERS, of tests/test_shards.py.
WHEEL_TESTS := c_api core demo engine fields_command main merge_partials native onnx recordings_nwb run_command tokenize_poyo verify
WHEEL_WORKERS := dask_gives_the_bits_of_one_process two_processes_give_the_bits_of_one
wheel-test: $(VENV)/.ok ## sdist is whole; wheel in a clean environment, and the tests that packaging can break
	rm -rf build/dist build/wheel-venv
	$(BIN)/python -c "from scikit_build_core.build import build_sdist; build_sdist('build/dist')"
	diff <(git ls-files ':!.ci' | sort) <(tar -tzf build/dist/*.tar.gz | cut -d/ -f2- | grep -vx PKG-INFO | sort)
	$(BIN)/pip wheel -q --no-deps --no-build-isolation -w build/dist .  # C++ is compiled already
	$(BIN)/python -m venv build/wheel-venv
	build/wheel-venv/bin/pip install -q -c constraints.txt torch
	build/wheel-venv/bin/pip install -q -c constraints.txt "$$(ls build/dist/*.whl)[test]"
	build/wheel-venv/bin/pytest -q -n $(AT_ONCE) --dist loadfile -m "not slow" -p no:cacheprovider \
	  $(WHEEL_TESTS:%=tests/test_%.py) $(WHEEL_WORKERS:%=tests/test_shards.py::test_%)

SECONDS_EACH ?= 60
fuzz: $(VENV)/.ok ## mutate files for every reader of foreign bytes, SECONDS_EACH each
	$(BIN)/python tests/fuzz/run.py --seconds $(SECONDS_EACH)

clean: ## remove the environment and all builds
	rm -rf $(VENV) build dist
