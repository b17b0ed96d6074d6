"""How far IDSDS moves in fewer bits: means, ranks of cells and images, the order of methods; against IEEE float32.

    python -m benchmarks.precision                                        # bf16-mixed on one CPU thread, 15 min
    python -m benchmarks.precision --device cuda --images 1024            # tf32, bf16-mixed and 16-mixed
    python -m benchmarks.precision --model timm:resnet18 --input-size 224 --attributions ixg ig gradcam --device cuda

Same network, same images, same methods, everything random keyed alike. Drops are taken in full precision whatever
`--precision` says, so they must be the same bit for bit; beside them stands what they would be if they weren't.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, Literal

from benchmarks.scaling import MODEL, short_name
from faithfulness.core.cli import run_command
from faithfulness.core.errors import InputError


def main(
    model: str = MODEL,
    input_size: int | None = None,
    attributions: list[str] | None = None,
    precisions: list[Literal["tf32", "bf16-mixed", "16-mixed"]] | None = None,
    images: int = 256,
    batch_size: int = 64,
    device: Literal["cpu", "cuda"] = "cpu",
    seed: int = 0,
    out: Path | None = None,
) -> None:
    """Score the same images in each precision, and say what moved.

    Args:
        model: checkpoint folder or timm:NAME.
        input_size: side of the images in pixels; the model's own by default.
        attributions: methods; all that the network can carry if not given.
        precisions: held against 32-true; all that the device computes in if not given, bf16-mixed on a processor.
        images: how many, of the embedded digits.
        batch_size: images of a batch.
        device: cpu or cuda.
        seed: keys everything random.
        out: folder for precision-MODEL-DEVICE.json.
    """
    from benchmarks.checks import measuring
    from faithfulness.core.checks import check_count

    check_count("--images", images, least=2)
    check_count("--batch-size", batch_size)
    asked = dict.fromkeys(precisions or (["bf16-mixed"] if device == "cpu" else ["tf32", "bf16-mixed", "16-mixed"]))
    if device == "cpu" and (other := [name for name in asked if name != "bf16-mixed"]):
        raise InputError(f"--precisions: expected bf16-mixed, which a processor computes in, got {' '.join(other)}")
    with measuring(out, "precision"):
        found = measured(model, list(asked), device, attributions or ["all"], images, batch_size, input_size, seed)
        for name, moved in found["precisions"].items():
            print(table(name, moved))
        if out is not None:
            from faithfulness.core.files import write_json

            write_json(out / f"precision-{short_name(model)}-{device}.json", found)


def measured(
    model: str,
    precisions: list[str],
    device: str,
    attributions: list[str],
    images: int,
    batch_size: int,
    input_size: int | None,
    seed: int,
) -> dict[str, Any]:
    """The content of the JSON."""
    import torch

    from benchmarks.attribution import check_device
    from benchmarks.drift import FAR, REFERENCE, compared, score
    from faithfulness.core.results import environment

    check_device(device)
    options = {"attributions": attributions, "limit": images, "batch_size": batch_size, "input_size": input_size}
    options |= {"accelerator": device, "seed": seed}
    reference = score(model, REFERENCE, **options)
    summary = reference.result.summary
    found = {name: compared(reference, score(model, name, **options), seed) for name in precisions}
    return {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "settings": {
            "model": summary["model"]["name"],
            "sha256": summary["model"].get("sha256"),
            "data": summary["data"],
            "reference": REFERENCE,
            "far": FAR,
            "threads": torch.get_num_threads(),
            **{
                name: summary["settings"][name]
                for name in ("grid", "fill", "input_size", "batch_size", "chunk", "seed")
            },
        },
        "precisions": found,
        "environment": environment(),
    }


def table(precision: str, moved: dict[str, Any]) -> str:
    """A row per method, then the order of methods and the drops."""
    from benchmarks.drift import FAR, REFERENCE
    from faithfulness.core.tables import format_table
    from faithfulness.report import number

    rows = [
        (
            row["method"],
            number(row["mean_reference"]),
            number(row["mean"]),
            f"{row['difference']:+.4f} [{row['ci95'][0]:+.4f}, {row['ci95'][1]:+.4f}]",
            f"{row['p_holm']:.2g}",
            number(row["cells_spearman"]["mean"], 4),
            number(row["cells_spearman"]["least"]),
            f"{row['share_moved']:.1%}",
        )
        for row in moved["methods"]
    ]
    header = ("", REFERENCE, precision, "difference", "p", "cells' ρ", "least", f"> {FAR:g}")
    order, drops = moved["order"], moved["drops"]
    lines = [
        format_table(header, rows),
        f"order of {order['n']} methods: ρ {number(order['spearman'])}, τ {number(order['kendall'])}",
        f"drops {'identical' if drops['identical'] else 'DIFFER'}; of {drops['pairs_of_cells']} pairs of cells "
        f"{drops['ties']} tie, in {precision} {drops['ties_if_rounded']} would",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(run_command(main))
