# `make demo` and `make test` need nothing but Python 3.11 to 3.13 and a package index.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO_DIR ?= demo

.PHONY: demo test bench reliability lint format lock clean

# Without data or network: scikit-learn's 8x8 digits. A second call finds the models trained.
demo: $(VENV)/.runtime
	$(BIN)/python -m train vae_digits --workdir $(DEMO_DIR)/vae
	$(BIN)/python -m train mem_vae_digits --workdir $(DEMO_DIR)/mem_vae
	$(BIN)/python -m eval likelihood --workdir $(DEMO_DIR)/vae
	$(BIN)/python -m eval likelihood --workdir $(DEMO_DIR)/mem_vae
	@echo
	$(BIN)/python -m eval compare $(DEMO_DIR)/vae $(DEMO_DIR)/mem_vae --output $(DEMO_DIR)/digits.png

test: lint
	$(BIN)/python -m pytest tests -n auto --maxprocesses 8 --dist loadfile

# Training and evaluation beside PyTorch's, pythae's and its products alone, and the start of a
# process, which needs MNIST; python -m benchmarks --help.
bench: $(VENV)/.bench
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.training --parts start
	$(BIN)/python -m benchmarks.sharing
	$(BIN)/python -m eval tables --readme README.md

# Kills, long runs and broken inputs; at most half an hour of two cores. See results/README.md.
reliability: $(VENV)/.test
	$(BIN)/python -m reliability

lint: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.test
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.runtime: requirements.lock
	$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(not (3, 11) <= v <= (3, 13) and "Python 3.11, 3.12 or 3.13 is needed, found %d.%d: make PYTHON=python3.12" % v)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	touch $@

$(VENV)/.test: requirements-test.lock $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-test.lock
	touch $@

$(VENV)/.bench: requirements-bench.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-bench.txt
	touch $@

# The locks hold for every supported Python (markers choose); `setup.py` holds the ranges.
lock:
	$(PYTHON) -m venv $(VENV)-lock && $(VENV)-lock/bin/pip install --quiet uv
	touch README.md
	$(VENV)-lock/bin/uv pip compile --quiet --universal --no-emit-index-url --no-annotate --python-version 3.11 \
	  --custom-compile-command 'make lock' setup.py -o requirements.lock
	$(VENV)-lock/bin/uv pip compile --quiet --universal --no-emit-index-url --no-annotate --python-version 3.11 \
	  --custom-compile-command 'make lock' --extra test -c requirements.lock setup.py -o requirements-test.lock
	rm -rf $(VENV)-lock

clean:
	rm -rf $(VENV) $(DEMO_DIR) build *.egg-info
