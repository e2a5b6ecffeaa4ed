# One command for everything; `make help` lists them. What `make test` runs is all that CI runs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --no-compile

# Which stamps exist says what is installed, so a second call installs nothing.
RUN := $(VENV)/.run
DEV := $(VENV)/.dev
DOCS := $(VENV)/.docs

.PHONY: help demo check test docs bench format clean pins

help:
	@echo "make demo    install into $(VENV), then train on the text that comes with the package"
	@echo "make check   install the tools too, then lint, check the types, run the core tests and the doctests"
	@echo "make test    install the tools too, then lint, check the types, run tests and doctests"
	@echo "make docs    install what the site needs too, run the gallery, and build the documentation in build/site"
	@echo "make bench   time the estimators (and, where they are installed, their peers)"
	@echo "make format  let ruff lay out and tidy the code"
	@echo "make clean   remove $(VENV), caches and builds"
	@echo "make pins    write the three constraints files anew (needs uv)"
	@echo "Another interpreter: make demo PYTHON=python3.12"

demo: $(RUN)
	$(BIN)/onward train

# Byte code is kept, also where the environment says otherwise: many tests start processes that import the library.
test: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest

# The quick tier: no test here is missing from `make test`.
check: $(DEV)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -m core tests onward

docs: $(DOCS)
	$(BIN)/python -m docs.site

bench: $(RUN)
	@echo "To time the peers as well: $(BIN)/python -m pip install braintrace torch==2.13.0"
	$(BIN)/python -m benchmarks

format: $(DEV)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Hashes and editable installs exclude each other in one pip call, hence two calls.
$(RUN): constraints.txt pyproject.toml experiments/pyproject.toml
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("onward needs Python 3.11 or newer; $(PYTHON) is " + sys.version.split()[0] + ". Name a newer one: make PYTHON=python3.12")'
	@echo "Installing into $(VENV) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --require-hashes -r constraints.txt
	@$(PIP) --no-deps --no-build-isolation -e . -e ./experiments
# Byte code now, on all cores, and not at every start: it halves the time to import JAX. Some packages hold files for
# other versions of Python, which do not compile; whatever is missing is compiled when it is imported.
	@$(BIN)/python -m compileall -qq -j 0 $(VENV)/lib || true
	@touch $@

$(DEV): $(RUN) constraints-dev.txt
	@echo "Installing the development tools into $(VENV) ..."
	@$(PIP) --require-hashes -r constraints-dev.txt
	@touch $@

$(DOCS): $(DEV) constraints-docs.txt
	@echo "Installing what the documentation needs into $(VENV) ..."
	@$(PIP) --require-hashes -r constraints-docs.txt
	@touch $@

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis
	find onward experiments tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

# The same versions on every Python and system: results should not depend on which one you have.
LOCK := uv pip compile --quiet --universal --python-version 3.11 --fork-strategy fewest \
	--generate-hashes --no-header --no-annotate --upgrade

# Versions that a file above has pinned, left out of the files below it.
PINNED = $$(cat $(1) | sed -n 's/^\([a-z0-9-]*\)==.*/--no-emit-package \1/p')

pins:
	(echo '# What running onward needs, and what builds it. Written by `make pins`.'; \
		printf 'hatchling\neditables\n' | $(LOCK) pyproject.toml - --extra cli) > constraints.txt
	(echo '# The development tools, on top of what running needs. Written by `make pins`.'; \
		echo '-r constraints.txt'; \
		$(LOCK) pyproject.toml --extra dev -c constraints.txt $(call PINNED,constraints.txt)) > constraints-dev.txt
	(echo '# What the documentation needs, on top of the development tools. Written by `make pins`.'; \
		echo '-r constraints-dev.txt'; \
		$(LOCK) pyproject.toml --extra docs -c constraints.txt -c constraints-dev.txt \
			$(call PINNED,constraints.txt constraints-dev.txt)) > constraints-docs.txt
