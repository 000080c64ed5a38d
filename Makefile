# make demo    install into .venv, draw a picture with the embedded model, ask what is in it
# make test    install into .venv with the test tools, run every test
# make check   formatting, lint, types and import direction
# make format  let ruff rewrite what it can
# make clean   remove .venv and all caches
#
# Needs Python 3.11 or newer and make. PYTHON=/path/to/python chooses the interpreter.

VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 2

# What runs here is this checkout, and never needs the network once it is installed.
unexport PYTHONPATH
export HF_HUB_OFFLINE = 1
export TOKENIZERS_PARALLELISM = false
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: demo test check format clean
.DELETE_ON_ERROR:

demo: $(VENV)/installed
	@$(BIN)/dromaius image "a red apple" --seed 7 -o demo.png >/dev/null
	@answer=$$($(BIN)/dromaius ask demo.png "What is in the image?") && \
		printf '%s\n%s\n' "$(CURDIR)/demo.png" "$$answer"

test: export OMP_NUM_THREADS = 1
test: $(VENV)/installed-dev
	$(BIN)/python -m pytest -n $(WORKERS)

check: $(VENV)/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: $(VENV)/installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp files say which requirements the environment holds; what the commands need decides which.
$(VENV)/installed: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing dromaius into $(VENV) (some minutes the first time)" >&2
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/installed-dev: pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing dromaius and its test tools into $(VENV) (some minutes the first time)" >&2
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev,jax,tensorflow,train]"
	@touch $@ $(VENV)/installed

# The first interpreter that is new enough and can make environments. Each is run, not just found:
# a version manager may leave a name on the path with nothing behind it.
CANDIDATES := $(or $(PYTHON),python3 python3.13 python3.12 python3.11)

$(BIN)/python:
	@rm -rf $(VENV)
	@for python in $(CANDIDATES); do \
		"$$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
			>/dev/null 2>&1 && exec "$$python" -m venv $(VENV); \
	done; \
	echo "No Python 3.11 or newer with venv found (tried: $(CANDIDATES));" \
		"name one with PYTHON=/path/to/python" >&2; \
	exit 1
