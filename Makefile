# make serve   install into .venv and serve the embedded model on http://127.0.0.1:8000
# make monitor serve, with Prometheus beside it on http://127.0.0.1:9090 (where the package is installed)
# make boards  write the Grafana boards, docs/metrics.md, docs/stop-rules.md, docs/commands.md and the configurations in
#              docs/clients.md anew from what is declared
# make mutants plant faults in the files that differ from the last commit, and see which of them the tests notice;
#              of a folder: make mutants ROOM=model/scheduling
# make test    install with the development tools, then lint, type-check and test
#
# Options of `starcoder serve` go into ARGS:        make serve ARGS="--model bigcode/starcoder --tensor-parallel-size 4"
# Options of pytest go into PYTEST_ARGS:            make test PYTEST_ARGS="tests/model -x"
# Tests run in TEST_WORKERS processes; for --pdb 0: make test PYTEST_ARGS=--pdb TEST_WORKERS=0
# The order of an earlier run, by its seed:         make test PYTEST_ARGS=--randomly-seed=2718
# Another Python (3.11 to 3.13):                    make serve PYTHON=python3.12
# Without a GPU, TORCH_INDEX names a package index of CPU builds of PyTorch, which are a tenth of the size.

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
ARGS ?=
PYTEST_ARGS ?=
ROOM ?=
TEST_WORKERS ?= 3

PIP_INSTALL = $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: serve monitor boards test cases lint style types mutants clean
.DEFAULT_GOAL := serve

serve: $(VENV)/.serve
	@exec $(VENV)/bin/starcoder serve $(ARGS)

# Prometheus ends with the server, and the server with Ctrl-C.
METRICS_DIR ?= $(CURDIR)/runs/metrics
monitor: $(VENV)/.serve
	@command -v prometheus >/dev/null || { echo "prometheus is not installed (Debian package prometheus)"; exit 1; }
	@mkdir -p $(METRICS_DIR) && rm -rf $(METRICS_DIR)/targets
	@$(VENV)/bin/python -m monitoring.prometheus --metrics-dir $(METRICS_DIR) & prometheus=$$!; \
		trap 'kill $$prometheus 2>/dev/null' EXIT; trap : INT; \
		$(VENV)/bin/starcoder serve --metrics-dir $(METRICS_DIR) --metrics-port 0 $(ARGS)

boards: $(VENV)/.dev
	@$(VENV)/bin/python -m deployments.command.boards
	@$(VENV)/bin/python -m k8s.generate

# mypy has one core for half a minute: it runs beside the tests.
test: style
	@$(MAKE) --no-print-directory --jobs=$(if $(filter 0,$(TEST_WORKERS)),1,2) types cases

# More workers than the two cores of continuous integration: many tests wait for other processes. What Python compiles it
# keeps, for the workers' many processes and the next run.
unexport PYTHONDONTWRITEBYTECODE
cases: $(VENV)/.dev
	$(VENV)/bin/python -m pytest --numprocesses $(TEST_WORKERS) $(PYTEST_ARGS)

lint: style types

style: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/lint-imports

types: $(VENV)/.dev
	$(VENV)/bin/mypy

# Minutes: https://mutmut.readthedocs.io
mutants: $(VENV)/.mutants
	@$(VENV)/bin/python -m tests.mutation $(ROOM)

# The stamps are newer than what was installed from: a second run installs nothing.
$(VENV)/.serve: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV) (minutes the first time) ..."
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "Installing into $(VENV), development tools included (minutes the first time) ..."
	@$(PIP_INSTALL) --editable ".[dev]"
	@touch $(VENV)/.serve $@

$(VENV)/.mutants: pyproject.toml constraints.txt | $(VENV)/bin/python
	@$(PIP_INSTALL) --editable ".[mutants]"
	@touch $(VENV)/.serve $(VENV)/.dev $@

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; ok = (3, 11) <= sys.version_info[:2] <= (3, 13); \
		sys.exit(not ok and "Python 3.11 to 3.13 is needed, %s is %s: make PYTHON=..." % (sys.executable, sys.version.split()[0]))'
	@$(PYTHON) -m venv $(VENV)

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
