# make train   fit the example models with every optimizer: tables, and plots in out/
# make test    run the tests
# Each makes its own virtual environment .venv; PYTHON=python3.12 chooses another interpreter for it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
EXTRAS := cli test bench docs dev
COMPILED := setup.py pyproject.toml $(wildcard src_c/* fastopt/engine/*.p[yx]*)

.PHONY: help train test test-slow adapters mpi mpi-smoke bench bench-full bench-smoke lint format docs dist arm sanitize clean
.DELETE_ON_ERROR:

help:
	@echo "make train | test | test-slow | adapters | mpi | bench | bench-full | lint | format | docs | dist | arm | sanitize | clean"

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# An editable install with one extra; dev holds all the others.
$(EXTRAS:%=$(VENV)/.%): $(VENV)/.%: $(COMPILED) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[$*]'
	touch $(if $(filter dev,$*),$(EXTRAS:%=$(VENV)/.%),$@)

train: $(VENV)/.cli
	$(BIN)/fastopt train line --optimizer all --plot out/line.png --json out/line.json
	$(BIN)/fastopt train digits --optimizer all --plot out/digits.png --json out/digits.json

test: $(VENV)/.test
	$(BIN)/python -m pytest -m "not slow" --cov --cov-fail-under=95

test-slow: $(VENV)/.test
	FASTOPT_EVERY_CLASS=1 $(BIN)/python -m pytest

# The adapters and examples, in an environment with their partners; TORCH= leaves torch and its clients out. Keras on two of its backends;
# scikit-learn in its other releases too, whose private parts our estimators know.
PARTNERS := .venv-adapters
TORCH ?= torch==2.13.0 stable-baselines3 expecttest
WITH_PARTNERS := $(patsubst %,tests/test_%.py,sklearn scipy thinc convert create examples foreign documents) \
    $(wildcard tests/test_torch*.py)
SKLEARN := 1.4.2 1.5.2 1.6.1 1.7.2 1.8.0

$(PARTNERS)/.ready: $(COMPILED)
	$(PYTHON) -m venv $(PARTNERS)
	$(PARTNERS)/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test,adapters]' $(TORCH)
	touch $@

$(PARTNERS)-sklearn/.ready: $(COMPILED)
	$(PYTHON) -m venv $(PARTNERS)-sklearn
	$(PARTNERS)-sklearn/bin/python -m pip install --quiet --disable-pip-version-check --editable . pytest scikit-learn
	touch $@

adapters: $(PARTNERS)/.ready $(PARTNERS)-sklearn/.ready
	$(PARTNERS)/bin/python -m pytest -k "not rewarded_as_with_torch" $(WITH_PARTNERS)  # it takes an hour
	KERAS_BACKEND=jax $(PARTNERS)/bin/python -m pytest -q tests/test_convert.py -k keras
	set -e; for release in $(SKLEARN); do \
	    $(PARTNERS)-sklearn/bin/python -m pip install --quiet --disable-pip-version-check scikit-learn==$$release; \
	    $(PARTNERS)-sklearn/bin/python -m pytest -q -m "not slow" tests/test_sklearn.py; \
	done

# fastopt.mpi on one to four ranks, in an environment with MPI; the example, and the benchmark to see that it runs.
$(VENV)-mpi/.ready: $(COMPILED)
	$(PYTHON) -m venv $(VENV)-mpi
	$(VENV)-mpi/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test,mpi]' mpich
	touch $@

mpi: $(VENV)-mpi/.ready
	$(VENV)-mpi/bin/python -m pytest tests/test_mpi.py
	$(VENV)-mpi/bin/python -m pytest -q tests/test_examples.py tests/test_documents.py -k mpi
	$(VENV)-mpi/bin/python -m bench.mpi --smoke

mpi-smoke: $(VENV)-mpi/.ready
	$(VENV)-mpi/bin/python -m pytest -q tests/test_mpi.py -k "2-ranks"

bench: $(VENV)/.bench
	$(BIN)/python -m bench

bench-full: $(VENV)/.bench
	$(BIN)/python -m bench --full

bench-smoke: $(VENV)/.bench
	$(BIN)/python -m bench --smoke
	$(BIN)/python -m pytest bench --benchmark-disable -q
	$(BIN)/python -m bench instructions

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	PATH="$(CURDIR)/$(BIN):$$PATH" cython-lint fastopt/engine  # which runs pycodestyle from PATH
	$(BIN)/mypy
	FASTOPT_WERROR=1 $(BIN)/python setup.py --quiet build_ext --build-lib build/lint --build-temp build/lint-temp

format: $(VENV)/.dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: $(VENV)/.docs
	$(BIN)/sphinx-build -W --keep-going -b html docs docs/_build/html

# An sdist, a wheel from that sdist, and that wheel in an empty environment. On Linux also as it is repaired for the
# package index, in dist/repaired: it must not be larger than 2 MB.
dist: $(VENV)/.dev
	rm -rf dist build/dist-venv
	$(BIN)/python -m build --quiet
	$(BIN)/python -m twine check --strict dist/*
	$(BIN)/python tests/check_dist.py dist
	case "$$(uname)" in Linux) PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/auditwheel repair --wheel-dir dist/repaired dist/*.whl \
	    && $(BIN)/python tests/check_dist.py dist dist/repaired;; esac
	$(PYTHON) -m venv build/dist-venv
	build/dist-venv/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl
	cd build && dist-venv/bin/python -c "import fastopt; fastopt.show_config()"

# The kernels compiled for 64-bit Arm, with the bits of this machine's: needs gcc-aarch64-linux-gnu and qemu-user-static.
arm: $(VENV)/.test
	cd tests && ../$(BIN)/python check_arm.py

# The suite against kernels and engine built with AddressSanitizer and UndefinedBehaviorSanitizer. Leaks are not looked
# for: CPython leaves its own at exit.
SANITIZERS := address,undefined
sanitize: $(VENV)/.test
	rm -rf build/sanitize
	FASTOPT_SANITIZE=$(SANITIZERS) $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps \
	    --target build/sanitize .
	PYTHONPATH=$(CURDIR)/build/sanitize LD_PRELOAD="$$($(CC) -print-file-name=libasan.so) $$($(CC) -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0:handle_sigfpe=0:allocator_may_return_null=1 \
	    $(BIN)/python -m pytest -m "not slow" -p no:cacheprovider -o pythonpath="build/sanitize ."

clean:
	rm -rf build dist out docs/_build docs/made .venv .venv-adapters .venv-adapters-sklearn .venv-mpi .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage
	rm -f fastopt/engine/*.so
