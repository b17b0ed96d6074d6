# Everything runs in a virtual environment of its own (.venv); nothing that is installed elsewhere counts.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUNS ?= runs/demo
PICTURES := examples/pictures
JOBS ?= 3
TEST_FLAGS ?=

.PHONY: demo pictures test check install clean

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	touch $@

# Two stages, as published: a model that has seen whole images only, then fine-tuning with deleted cells. Then every
# protocol, and the page over all of them. Four minutes on two cores.
demo: install
	$(BIN)/python -m training.patch_finetune --out $(RUNS)/base --deletion-probability 0 --overwrite
	$(BIN)/python -m training.patch_finetune --out $(RUNS)/checkpoint --model $(RUNS)/base --epochs 3 --overwrite
	$(BIN)/python -m eval.idsds --model $(RUNS)/checkpoint --baseline $(RUNS)/base --limit 256 --out $(RUNS)/idsds --overwrite \
		--attributions grad ixg ixg-sg ig gradcam gradcam@layer3 occlusion 'occlusion(kernel=16, stride=16)'
	$(BIN)/python -m eval.difull --model $(RUNS)/checkpoint --grids 30 --layers input middle final \
		--attributions ixg ig gradcam layercam --out $(RUNS)/difull --overwrite
	$(BIN)/python -m eval.leakage --model $(RUNS)/checkpoint --setting difull --out $(RUNS)/leakage --overwrite
	$(BIN)/python -m eval.dea --model checkpoints/released/digits-segmenter --limit 12 --out $(RUNS)/dea --overwrite \
		--attributions gpa ega region dea ixg
	$(BIN)/python -m eval.report $(RUNS) --out $(RUNS)/report --overwrite
	@echo
	@echo "models and numbers: $(RUNS)"
	@echo "open this page:     $(RUNS)/report/index.html"

# The pictures of README.md: a digit, the page of the demo, and the digit explained.
pictures: install
	$(BIN)/python -c 'from PIL import Image; from faithfulness.data import open_data; \
		Image.fromarray(open_data("digits", "val").image(0).permute(1, 2, 0).numpy()).save("$(PICTURES)/digit.png")'
	chromium --headless --no-sandbox --hide-scrollbars --window-size=1000,840 --screenshot=$(PICTURES)/page.png $(RUNS)/report/index.html
	$(BIN)/python -m eval.explain --model $(RUNS)/checkpoint --image $(PICTURES)/digit.png \
		--attributions occlusion ig gradcam@layer3 ixg edge --out $(RUNS)/explained --overwrite
	cp $(RUNS)/explained/pictures/digit.png $(PICTURES)/explained.png

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(TEST_FLAGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python

clean:
	rm -rf $(VENV) runs build *.egg-info
