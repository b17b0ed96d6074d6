"""Runs a notebook's cells from top to bottom, as Jupyter would, with nothing but Python.

python tests/reference/notebooks.py examples/first_look.ipynb           # in the folder where one is; outputs as JSON
python tests/reference/notebooks.py examples/first_look.ipynb --keep    # writes them into the notebook
"""

import ast
import base64
import io
import json
import sys
from contextlib import redirect_stdout
from pathlib import Path


def run_notebook(content):
    """Run all code cells in one fresh namespace; the notebook's content with their outputs."""
    names, cells, count = {"__name__": "__main__"}, [], 0
    for cell in content["cells"]:
        if cell["cell_type"] == "code":
            count += 1
            cell = cell | {"outputs": run_cell("".join(cell["source"]), names, count), "execution_count": count}
        cells.append(cell)
    return content | {"cells": cells}


def run_cell(source, names, count):
    """The outputs of a cell: what it prints, and what its last expression looks like."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    value = None
    with redirect_stdout(io.StringIO()) as printed:
        exec(compile(tree, f"<cell {count}>", "exec"), names)
        if last is not None:
            value = eval(compile(ast.Expression(last.value), f"<cell {count}>", "eval"), names)
    outputs = []
    if printed.getvalue():
        outputs.append(
            {"output_type": "stream", "name": "stdout", "text": printed.getvalue().splitlines(keepends=True)}
        )
    if value is not None:
        shown = {"data": looks(value), "metadata": {}, "execution_count": count}
        outputs.append({"output_type": "execute_result", **shown})
    return outputs


def looks(value):
    """MIME type -> how a value shows itself."""
    found = {"text/plain": repr(value).splitlines(keepends=True)}
    if hasattr(value, "_repr_html_") and (page := value._repr_html_()):
        found["text/html"] = page.splitlines(keepends=True)
    if hasattr(value, "_repr_png_"):
        found["image/png"] = base64.b64encode(value._repr_png_()).decode()
    return found


if __name__ == "__main__":
    sys.path[0] = ""  # as in Jupyter: the folder where one is, not this file's
    file = Path(sys.argv[1])
    text = (
        json.dumps(
            run_notebook(json.loads(file.read_text(encoding="utf-8"))), indent=1, sort_keys=True, ensure_ascii=False
        )
        + "\n"
    )
    if "--keep" in sys.argv[2:]:
        file.write_text(text, encoding="utf-8")
    else:
        print(text, end="")
