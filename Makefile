# Everything runs in a virtual environment of its own (.venv); nothing that is installed elsewhere counts.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs/demo
JOBS ?= 3
TEST_FLAGS ?=

.PHONY: demo test check install clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# Two stages, as published: a model that has seen whole images only, then fine-tuning with deleted cells.
demo: install
	$(BIN)/python -m training.patch_finetune --out $(RUNS)/base --deletion-probability 0 --overwrite
	$(BIN)/python -m training.patch_finetune --out $(RUNS)/checkpoint --model $(RUNS)/base --epochs 3 --overwrite
	$(BIN)/python -m eval.idsds --model $(RUNS)/checkpoint --baseline $(RUNS)/base --limit 256 --out $(RUNS)/idsds --overwrite \
		--attributions grad ixg ixg-sg ig gradcam gradcam@layer3 occlusion 'occlusion(kernel=16, stride=16)'
	$(BIN)/python -m eval.report $(RUNS)/idsds --out $(RUNS)/report --overwrite
	@echo
	@echo "checkpoint: $(RUNS)/checkpoint    model card: $(RUNS)/checkpoint/README.md"
	@echo "results:    $(RUNS)/idsds/summary.json, $(RUNS)/idsds/per_image.parquet"
	@echo "page:       $(RUNS)/report/index.html"

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(TEST_FLAGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) runs build *.egg-info
