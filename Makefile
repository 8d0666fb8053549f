# A fresh machine needs git, make, a C++17 compiler and Python 3.11 or newer; the rest is set up here.
PY ?= $(firstword $(foreach p,python3.13 python3.12 python3.11 python3,$(shell command -v $(p))))
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip install -q -c constraints.txt
BUILD_TOOLS := "scikit-build-core>=1.1" "pybind11>=3" "setuptools-scm>=8" "cmake>=3.24" ninja

.PHONY: help demo test lint format types bench wheel-test fuzz clean
help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

$(VENV)/.ok: pyproject.toml CMakeLists.txt constraints.txt $(wildcard csrc/* csrc/*/* bindings/*)
	test -x $(BIN)/python || $(PY) -m venv $(VENV)
	$(PIP) torch $(BUILD_TOOLS)
	$(PIP) --no-build-isolation -e ".[test]"
	touch $@

demo: $(VENV)/.ok ## decode held-out time of two real recordings; writes demo_report/
	$(BIN)/attendrite demo

test: $(VENV)/.ok ## run the tests
	$(BIN)/pytest -q

lint: $(VENV)/.ok ## ruff and clang-format, no changes made
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(git ls-files '*.cpp' '*.hpp' '*.h')

format: $(VENV)/.ok ## apply ruff and clang-format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $$(git ls-files '*.cpp' '*.hpp' '*.h')

# mypy cannot follow the editable redirect, so the shipped copy is checked and its paths mapped back.
types: $(VENV)/.ok ## mypy --strict on the shipped copy
	rm -rf build/types
	$(PIP) --no-deps --no-build-isolation --target build/types .
	cd build/types && MYPYPATH=. ../../$(BIN)/mypy --config-file ../../pyproject.toml -p attendrite \
	  | sed -e 's#^attendrite/kernels/#kernels/#' -e 's#^attendrite/#engine/#'; exit $${PIPESTATUS[0]}

clean: ## remove the environment and all builds
	rm -rf $(VENV) build dist
SHELL := bash
