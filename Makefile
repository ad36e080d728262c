# make demo, make test: each sets itself up in .venv
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

export YOLO_OFFLINE := true
export YOLO_AUTOINSTALL := false

.PHONY: demo test lint clean

demo: $(READY)
	$(BIN)/python tools/demo.py

test: $(READY)
	$(BIN)/python -m pytest -m "not gpu"

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

$(READY): pyproject.toml _spikeyolo_hook.py _spikeyolo_hook.pth _spikeyolo_hook.start
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) demo .pytest_cache .ruff_cache .hypothesis
