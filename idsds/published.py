"""The scores that the publication reports, as data: to be laid beside one's own where the model is one of theirs.

IDSDS on the ImageNet validation set, models fine-tuned with one of 4×4 cells deleted (zeros), target's logit. Read off
the poster of Hesse, Schaub-Meyer, Roth, *Benchmarking the Attribution Quality of Vision Models* (NeurIPS 2024).
"""

from __future__ import annotations

SOURCE = "Hesse, Schaub-Meyer, Roth (NeurIPS 2024), read off the poster"
READING_ERROR = 0.005
"""How far a number may be from the one that was meant."""

PUBLISHED_NAMES = {
    "resnet18": "RN-18",
    "resnet50": "RN-50",
    "resnet101": "RN-101",
    "resnet152": "RN-152",
    "wide_resnet50_2": "WRN-50",
    "vgg16": "VGG-16",
    "vit_base_patch16_224": "ViT-B/16",
    "fixup_resnet50": "RN-50 no BN",
    "x_resnet50": "no BN, no bias",
    "bcos_resnet50": "B-cos RN-50",
    "bagnet33": "BagNet-33",
}
"""Architecture, as timm or this suite calls it -> what the publication calls it."""

_COLUMNS = tuple(PUBLISHED_NAMES)[:9]
_ROWS: dict[tuple[str, str], tuple[float | None, ...]] = {
    ("ixg-sg", "input"): (0.012, -0.005, 0.001, -0.003, -0.001, 0.034, 0.000, 0.029, 0.121),
    ("ixg", "input"): (0.096, 0.070, None, None, 0.063, 0.149, 0.067, 0.165, 0.240),
    ("rise", "input"): (0.197, 0.131, 0.099, 0.087, 0.091, 0.308, 0.110, 0.200, 0.227),
    ("layercam", "final"): (0.233, 0.191, 0.131, 0.115, 0.195, 0.469, None, 0.265, 0.318),
    ("ig", "input"): (0.279, 0.196, 0.169, 0.157, 0.175, 0.388, 0.135, 0.305, 0.240),
    ("gradcampp", "final"): (0.254, 0.212, 0.151, 0.134, 0.204, 0.443, None, 0.275, 0.32),
    ("gradcam", "final"): (0.285, 0.236, 0.174, 0.155, 0.224, 0.545, None, 0.358, 0.410),
    ("ig-u", "input"): (0.354, 0.255, 0.218, 0.200, 0.230, 0.475, 0.146, 0.341, 0.378),
}

PUBLISHED_SCORES: dict[str, dict[tuple[str, str], float]] = {
    name: {method: row[column] for method, row in _ROWS.items() if row[column] is not None}  # type: ignore[misc]
    for column, name in enumerate(_COLUMNS)
} | {"bcos_resnet50": {("bcos", "input"): 0.31}, "bagnet33": {("bagnet", "input"): 0.80}}
"""Architecture -> (attribution, layer) -> mean IDSDS, ± `READING_ERROR`."""


def published_scores(architecture: str) -> dict[tuple[str, str], float]:
    """(attribution, layer) -> published mean of an architecture; a timm tag is left out; empty for one of no table.

    >>> published_scores("resnet50.tv_in1k")["gradcam", "final"]
    0.236
    """
    return PUBLISHED_SCORES.get(architecture.partition(".")[0], {})
