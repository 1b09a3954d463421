# `make quick` runs the small matrix and writes its report; `make test` runs every check.
# Both make the environment first if it is missing. PYTHON chooses the interpreter (3.11 to 3.13).

PYTHON ?= python3
BIN := .venv/bin
RUN := results/runs/quick

.PHONY: quick test lint lock shell gpu-check reference-report reference-times clean

quick: .venv
	$(BIN)/ffjord-bench run quick --out $(RUN)
	$(BIN)/ffjord-bench report $(RUN)

test: .venv lint
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

lint: .venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# results/report and README's numbers from all records in results/reference; another run of it
# changes no byte. A run comes there by `ffjord-bench collect RUN --into results/reference/NAME`.
reference-report: .venv
	$(BIN)/ffjord-bench report

# How long `make quick` and `make test` take, for README: on a quiet machine, from a fresh clone.
reference-times: .venv
	$(BIN)/python -m benchmarks.report.commands

# What only a GPU can show, in five parts, under nine minutes, each once; PART=3 is the third alone.
# It takes the interpreter as it is: torch 2.11 to 2.13 built for CUDA (with Triton), pytest, and of
# pyproject.toml's dependencies those that are missing there, with nflows, pydantic, pooch and asv
# brought as wheels and found by PYTHONPATH where nothing can be installed.
gpu-check:
	$(PYTHON) -m benchmarks.perf.gpu_check $(if $(PART),--part $(PART))

# A shell with ffjord-bench and this environment's Python on the PATH; `exit` leaves it.
shell: .venv
	@. $(BIN)/activate && exec $${SHELL:-/bin/sh}

# The lock says which versions; pyproject.toml says what is needed. The stamp inside the folder
# makes an interrupted installation start again.
.venv: .venv/installed
.venv/installed: pyproject.toml requirements.lock
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else "Python 3.11 to 3.13 is needed; choose one with make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch .venv/installed

# A new lock from what pyproject.toml admits today, with torch held at the version in use.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet $$(grep '^torch==' requirements.lock)
	.venv-lock/bin/python -m pip install --quiet --editable '.[dev,fast,jax,perf,slurm,peers]'
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/+cpu//' | grep -v '^nvidia\|^triton' > requirements.lock
	rm -rf .venv-lock

clean:
	rm -rf .venv results/runs build dist *.egg-info
