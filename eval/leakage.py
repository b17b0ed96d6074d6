"""Find what leaks between the cells of a grid, or out of a deleted patch: proven where it can be, else tested."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from eval.frame import Command, ModelOptions, Outcome, Part, Pass, Step
from eval.frame.grid_options import check_settings
from faithfulness.core.errors import InputError
from faithfulness.core.files import jsonable, sha256_file

if TYPE_CHECKING:
    from difull import Compositions
    from eval.frame.run import Run


@dataclass(kw_only=True)
class LeakageOptions(ModelOptions):
    """Find what leaks; exit status 1 if something does.

    Args:
        setting: difull, gridpg, dipart: any of them.
        scale: cells per side: 2, 3, ...
        grids: how many grids each head is tested on.
        tries: random contents per head and way to its logits, besides the chosen ones.
        fill: fills to test; the checkpoint's own by default, else zeros.
        deletions: folder of a training run's record of deletions; MODEL/deletions by default, if there is one.
        mask_images: how many of the recorded samples are loaded again to test their brightness.
        precision: 32-true or 64-true.

    Example:
        python -m eval.leakage --model runs/demo/checkpoint --setting difull dipart
    """

    protocol_name: ClassVar[str] = "leakage"

    setting: list[str] = field(default_factory=lambda: ["difull", "dipart"])
    scale: list[int] = field(default_factory=lambda: [2])
    grids: int = 2
    tries: int = 200
    fill: list[str] | None = None
    deletions: Path | None = None
    mask_images: int = 2048
    precision: Literal["32-true", "64-true"] = "32-true"

    def check(self) -> None:
        """Raise InputError for values that no test can use; settings by their plain names."""
        super().check()
        self.setting, self.scale = check_settings(self.setting, self.scale)
        for name in ("grids", "tries", "mask_images"):
            if getattr(self, name) < 1:
                raise InputError(f"--{name.replace('_', '-')} must be at least 1, got {getattr(self, name)}")


class Leakage:
    """Proofs and tests of every head of each setting and scale, of the fills, and of a training run's choices."""

    def __init__(self, run: Run[LeakageOptions]):
        from faithfulness.core import DeletionSpec

        self.run = run
        self.deletion = run.checkpoint.deletion or DeletionSpec()
        self.deletion.grid.check(*run.checkpoint.model.input_size)

    def passes(self) -> Iterator[Pass]:
        """The choice of the patch in training, the heads, the fills."""
        from eval.frame.store import digest

        options = self.run.options
        path = self.run.checkpoint.path
        beside = [Path(path).expanduser() / "deletions"] if path else []  # a module that was given has no folder
        given = [options.deletions] if options.deletions else [folder for folder in beside if folder.is_dir()]
        heads = [[scale, name] for scale in options.scale for name in options.setting]
        folders, fills = [str(folder) for folder in given], options.fill or [self.deletion.fill]
        records = [sha256_file(file) for folder in given for file in sorted(folder.glob("*.parquet"))]
        made = digest(jsonable(self.run.checkpoint.training))
        yield Pass(
            "choice of the patch", self.run.items(folders, "records"), [Step("audit", self.audit)], [records, made]
        )
        yield Pass("heads", self.run.items(heads, "settings"), [Step("proofs", self.prove)])
        yield Pass("fills", self.run.items(fills, "fills"), [Step("test", self.test_fill)])

    def audit(self, folder: str, done: Mapping[str, Part]) -> Part:
        """What the choice of the patch told."""
        from eval.frame.deletion_record import audit_masks

        part = Part()
        audits, notes = audit_masks(Path(folder), self.run, self.deletion, self.run.options.mask_images)
        part.records["masks"] = [
            {"record": name, "passed": audit.passed, "found": audit.found, **asdict(audit), "report": audit.report}
            for name, audit in audits.items()
        ]
        part.records["notes"] = [{"note": note} for note in notes]
        return part

    def prove(self, case: list[Any], done: Mapping[str, Part]) -> Part:
        """What is proven or tested of every head of a setting, and what can reach the first head."""
        import torch

        from difull import influence_map
        from difull.leakage import leakage_proofs
        from eval.frame.grid_batches import first_grid, grid_batches, make_setting
        from eval.frame.localization import BLOCKS

        (scale, name), run, part = case, self.run, Part()
        compositions = grids_without_choice(run, scale, run.options.grids)
        whole = grid_batches(run, compositions)
        grids = torch.cat([batch.content.images for batch in whole.load(whole.numbers) if batch.content])
        grid = first_grid(run, compositions)
        height, width = grid.shape[-2:]
        sides = range(1, height + 1)
        block = next(s for s in sides if height % s == 0 and width % s == 0 and max(height, width) <= BLOCKS * s)
        setting = make_setting(name, run.checkpoint.model, scale)
        proofs = leakage_proofs(setting, grids, tries=run.options.tries, seed=run.options.seed)
        part.records["proofs"] = [proof.to_dict() | {"statements": proof.statements} for proof in proofs]
        reach = influence_map(setting, grid, 0, block, chunk=max(1, run.chunk // setting.cells))
        part.add(f"influence {scale}×{scale} {type(setting).__name__}", reach=reach[None])
        return part

    def test_fill(self, fill: str, done: Mapping[str, Part]) -> Part:
        """Whether what a fill replaces still matters."""
        from faithfulness.core.deletion_leakage import deletion_leakage

        size, seed = self.run.checkpoint.model.input_size, self.run.options.seed
        proof = deletion_leakage(fill, self.deletion.grid, size, seed)
        return Part(records={"proofs": [proof.to_dict() | {"statements": proof.statements}]})

    def summarize(self, part: Part) -> Outcome:
        """The verdicts, the numbers behind them, and what can reach a head."""
        import pandas as pd

        proofs, masks = part.records.get("proofs", []), part.records.get("masks", [])
        names = ("setting", "scale", "grids", "tries", "fill", "mask_images")
        numbers = [
            {"subject": proof["subject"], "metric": name, "value": value}
            for proof in proofs
            for name, value in proof["numbers"].items()
        ]
        return Outcome(
            scores=[],
            settings={name: getattr(self.run.options, name) for name in names},
            sections={
                "passed": all(found["passed"] for found in (*proofs, *masks)),
                "proofs": proofs,
                "masks": masks,
                "notes": [record["note"] for record in part.records.get("notes", [])],
            },
            per_image=pd.DataFrame(numbers),
            pictures={f"influence-{scale}x{scale}": self.picture(part, scale) for scale in self.run.options.scale},
        )

    def picture(self, part: Part, scale: int) -> Any:
        """What draws the influence on the first head, a panel per setting."""
        from faithfulness import report

        prefix = f"influence {scale}×{scale} "
        maps = {
            name.removeprefix(prefix): part.table(name)["reach"][0] for name in part.tables if name.startswith(prefix)
        }
        title = f"What can reach the head of cell 0, {scale}×{scale} grids: {self.run.title}"
        return lambda: report.influence_figure(maps, 0, scale, title=title)


def grids_without_choice(run: Run[LeakageOptions], scale: int, grids: int) -> Compositions:
    """The first images of the data as grids: whether something leaks doesn't depend on the class."""
    import numpy as np

    from difull import Compositions

    cells = scale**2
    count = min(grids, run.count // cells)
    if not count:
        raise InputError(f"a {scale}×{scale} grid needs {cells} images, {run.data.name} gives {run.count}")
    indices = np.arange(count * cells).reshape(count, cells)
    labels = np.array([[run.data.label(int(index)) for index in row] for row in indices])
    return Compositions(indices, labels, scale, "corners")


def report_leakage(summary: dict[str, Any]) -> str:
    """A line per subject with its verdict and statements, then what was found, and the verdict of all."""
    from faithfulness.core.tables import format_table

    proofs = summary["proofs"]
    names = ("structure", "taint", "derivative", "intervention")
    rows = [
        (proof["subject"], proof["verdict"], *(str(proof.get("statements", proof)[name]) for name in names))
        for proof in proofs
    ]
    header = ("", "verdict", *names)
    notes = dict.fromkeys(note for proof in proofs for note in proof["notes"])
    return "\n".join(
        [
            *summary.get("notes", []),
            format_table(header, rows, "<<<<<<"),
            *(f"{proof['subject']}: found: {finding}" for proof in proofs for finding in proof["found"]),
            *notes,
            *dict.fromkeys(mask["report"] for mask in summary["masks"] if "report" in mask),
            "nothing leaks" if summary["passed"] else "LEAKS",
        ]
    )


COMMAND = Command(LeakageOptions, Leakage, report_leakage, status=lambda summary: 0 if summary["passed"] else 1)
main = COMMAND.main
evaluate = COMMAND.evaluate

if __name__ == "__main__":
    sys.exit(main())
