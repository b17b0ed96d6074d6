"""Pictures of one's own, explained: the numbers as a table, the maps as pictures, and the files that hold both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from eval.frame.cautions import caution_lines
from eval.frame.explanation import Explainer
from eval.frame.installing import install
from eval.frame.methods import as_summed
from faithfulness import report
from faithfulness.core.errors import InputError
from faithfulness.core.files import jsonable
from faithfulness.core.grid import PatchGrid
from faithfulness.core.results import environment
from faithfulness.core.tables import format_table

if TYPE_CHECKING:
    import pandas as pd

    from faithfulness.report.style import Figure

SCHEMA = 1


@dataclass(repr=False)
class Explained:
    """What was found of some pictures.

    Attributes:
        summary: the content of `explain.json`.
        found: per picture its pixels, drops, and each method's map and cell sums.
        path: the folder that holds it all; None if nothing was written.
    """

    summary: dict[str, Any]
    found: list[dict[str, Any]]
    path: Path | None = None

    @cached_property
    def scores(self) -> pd.DataFrame:
        """A row per picture and map: picture, predicted, explained, attribution, layer, rank_correlation."""
        import pandas as pd

        return pd.DataFrame(
            {
                **{"picture": entry["name"], "predicted": entry["predicted"], "explained": entry["explained"]},
                **{name: each[name] for name in ("attribution", "layer", "rank_correlation")},
            }
            for entry in self.found
            for each in entry["maps"]
        )

    @property
    def maps(self) -> dict[str, dict[str, np.ndarray]]:
        """Picture -> METHOD@LAYER -> its map (h, w), in its own resolution, signed."""
        return {entry["name"]: maps_of(entry) for entry in self.found}

    def plot(self, picture: str | int = 0) -> Figure:
        """A picture's sheet: the picture, the true drops, each map over it, and its cell sums.

        Args:
            picture: its name or place, the first one by default.
        """
        names = [entry["name"] for entry in self.found]
        place = names.index(picture) if picture in names else picture
        if not isinstance(place, int) or not 0 <= place < len(names):
            raise InputError(f"expected a picture, one of {', '.join(names)}, or a place from 0, got {picture!r}")
        return draw(self.summary, self.found[place])

    def __str__(self) -> str:
        """The table that the command prints."""
        return table_of(self.summary)

    def __repr__(self) -> str:
        """One line: of what, and where it lies."""
        count, where = len(self.found), f", in {self.path}" if self.path else ""
        return f"<explained: {count} picture{'' if count == 1 else 's'} by {self.summary['model']['name']}{where}>"


def summary_of(work: Explainer, found: Sequence[dict[str, Any]], line: str | None) -> dict[str, Any]:
    """The content of `explain.json`; `line` is the command line, if there was one."""
    run, grid, options = work.run, work.deletion.grid, work.run.options
    settings = {"grid": [grid.rows, grid.cols], "fill": work.deletion.fill, "in_domain": work.in_domain}
    settings |= {name: getattr(options, name) for name in ("precision", "seed", "published")}
    return jsonable(
        {
            "schema": SCHEMA,
            "protocol": "explain",
            "command": line,
            "model": run.checkpoint.describe(),
            "settings": settings | {"input_size": list(run.checkpoint.model.input_size)},
            "cautions": work.cautions,
            "images": [as_json(entry) for entry in found],
            "environment": environment(),
        }
    )


def as_json(entry: dict[str, Any]) -> dict[str, Any]:
    """A picture's entry in `explain.json`: all but pixels and maps, which are in its .npz."""
    kept = {key: value for key, value in entry.items() if key not in ("pixels", "maps")}
    maps = []
    for each in entry["maps"]:
        shown = {key: value for key, value in each.items() if key not in ("map", "upsample")}
        maps.append(shown | {"shape": list(each["map"].shape), "cell_sums": each["cell_sums"].tolist()})
    return kept | {"drops": entry["drops"].tolist(), "maps": maps}


def maps_of(entry: dict[str, Any]) -> dict[str, np.ndarray]:
    """METHOD@LAYER -> the map of a picture."""
    return {f"{each['attribution']}@{each['layer']}": each["map"].numpy() for each in entry["maps"]}


def write(out: Path, explained: Explained, formats: Sequence[str]) -> None:
    """Write `explain.json`, and per picture its maps and its sheet; what an earlier call wrote goes."""

    def write_files(new: Path) -> None:
        (new / "maps").mkdir()
        for place, entry in enumerate(explained.found):
            arrays: dict[str, Any] = {"image": entry["pixels"].numpy()} | maps_of(entry)
            np.savez_compressed(new / "maps" / f"{entry['name']}.npz", **arrays)
            figure = explained.plot(place)
            for kind in dict.fromkeys(formats):
                report.save_figure(figure, new / "pictures" / f"{entry['name']}.{kind}")

    install(out, explained.summary, write_files)
    explained.path = out


def draw(summary: dict[str, Any], entry: dict[str, Any]) -> Figure:
    """The picture, the true drops, and for each method its map over the picture and its cell sums."""
    image = entry["pixels"].numpy() / 255.0
    common = {key: entry[key] for key in ("name", "predicted", "explained")} | {"index": 0, "image": image}
    kept = [
        common
        | {
            "method": each["label"],
            "map": as_summed(each["map"], image.shape[-2:], each["upsample"]),
            "sums": each["cell_sums"].cpu().numpy(),
            "drops": entry["drops"].cpu().numpy(),
        }
        for each in entry["maps"]
    ]
    likely = ", ".join(f"{each['class']} ({100 * each['probability']:.0f} %)" for each in entry["likely"][:3])
    title = f"{summary['model']['name']} on {shown_name(entry)}: {likely}"
    note = "; ".join(["the picture as the model sees it, resized and cropped", *summary["cautions"]])
    grid = PatchGrid.of(summary["settings"]["grid"])
    return report.examples(kept, [each["label"] for each in entry["maps"]], grid, title, note)


def shown_name(entry: dict[str, Any]) -> str:
    """The name of a picture's file, or what else it goes by."""
    return Path(entry["file"]).name if entry["file"] else entry["name"]


def table_of(summary: dict[str, Any]) -> str:
    """What was predicted and explained of each picture, and each method's correlation with the drops."""
    images = summary["images"]
    methods = [each["label"] for each in images[0]["maps"]]
    rows = [
        (
            shown_name(entry),
            f"{entry['predicted']} ({100 * entry['likely'][0]['probability']:.0f} %)",
            entry["explained"],
            *(report.number(each["rank_correlation"], 2) for each in entry["maps"]),
        )
        for entry in images
    ]
    table = format_table(("picture", "predicted", "explained", *methods), rows, "<<<" + ">" * len(methods))
    about = "per method: rank correlation of its cell sums with the drops of deleted cells"
    return "\n".join([table, about, *caution_lines(summary)])
