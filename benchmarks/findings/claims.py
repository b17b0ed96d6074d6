"""What each published finding comes to in numbers, and the range that counts as "holds": fixed before any run."""

from __future__ import annotations

from dataclasses import dataclass

from benchmarks.findings.family import BASE, DEEPER, FILLS, GRIDS, NO_BATCHNORM, NO_BIAS, UNPUBLISHED, VGG

HESSE, RAO, SAKIB = "Hesse et al. 2024", "Rao et al. 2022, 2023", "Sakib et al. 2026"
GRADIENT = ("grad|abs", "ixg", "ig")
LAYERS = ("input", "middle", "final")
POOLED = ("gradcam", "gradcampp")
KERNELS = {"ig": 129, "ixg": 65}
"""At which smoothing the published table has its best correlation, in pixels of a grid of 448 px."""
NEGATIVE, POSITIVE = (-2.0, 0.0), (0.0, 2.0)
"""A difference has this sign; scores differ by 2 at most."""


@dataclass(frozen=True)
class Claim:
    """A quantity of the record, and the range in which all of its interval has to lie.

    One that doesn't decide is reported only: it is of a network that the paper has no like of.
    """

    quantity: str
    low: float
    high: float

    @property
    def decides(self) -> bool:
        """Whether the finding's verdict depends on it."""
        return self.quantity.partition(":")[0] not in UNPUBLISHED


@dataclass(frozen=True)
class Finding:
    """A published finding.

    Attributes:
        key: its name in the record. source: who found it. text: what was found. how: what is measured, and its unit.
        claims: all that decide must hold; one of them that doesn't hold refutes it.
        by_construction: it holds for any network, trained or not, if the suite is right.
    """

    key: str
    source: str
    text: str
    how: str
    claims: tuple[Claim, ...]
    by_construction: bool = False


def _all(low_high: tuple[float, float], *quantities: str) -> tuple[Claim, ...]:
    return tuple(Claim(quantity, *low_high) for quantity in quantities)


IDSDS = (
    Finding(
        "smoothgrad",
        HESSE,
        "SmoothGrad hurts",
        "IDSDS with 4 noisy samples (σ = 1) minus without, mean per network, by its spread over those that learned",
        _all(NEGATIVE, "idsds: ixg-sg - ixg", "idsds: ig-sg - ig"),
    ),
    Finding(
        "abs",
        HESSE,
        "absolute values hurt",
        "IDSDS of |attribution| minus signed, mean per network, by its spread over those that learned",
        _all(NEGATIVE, "idsds: ixg|abs - ixg", "idsds: ig|abs - ig"),
    ),
    Finding(
        "intrinsic",
        HESSE,
        "intrinsically explainable models score best",
        "own explanation minus the best published method: BagNet against every plain network, B-cos against the base",
        _all(POSITIVE, "idsds: bagnet - best of all", "idsds: bcos - best of base"),
    ),
    Finding(
        "depth",
        HESSE,
        "deeper models score lower",
        "mean IDSDS of the published methods minus that of the base, by the spread over seeds",
        _all(NEGATIVE, *(f"idsds: {name} - {BASE}" for name in DEEPER)),
    ),
    Finding(
        "width",
        HESSE,
        "wider models score lower",
        "as for depth: twice the channels minus the base",
        _all(NEGATIVE, f"idsds: {BASE}-wide - {BASE}"),
    ),
    Finding(
        "batchnorm",
        HESSE,
        "BatchNorm hurts",
        "as for depth: without BatchNorm minus the base",
        _all(POSITIVE, f"idsds: {NO_BATCHNORM} - {BASE}"),
    ),
    Finding(
        "bias",
        HESSE,
        "bias terms hurt",
        "as for depth: without biases minus with them, both without BatchNorm",
        _all(POSITIVE, f"idsds: {NO_BIAS} - {NO_BATCHNORM}"),
    ),
    Finding(
        "accuracy",
        HESSE,
        "accuracy trades off against attribution quality",
        "Spearman over architectures of accuracy with mean IDSDS of the published methods that all of them carry; "
        "networks that didn't learn are left out",
        _all((-1.0, 0.0), "idsds: accuracy and score"),
    ),
    Finding(
        "seeds",
        HESSE,
        "scores are stable over training seeds",
        "least Spearman of the methods' order between two seeds; largest standard deviation of a method's mean",
        (*_all((0.8, 1.0), "idsds: order, seeds"), *_all((0.0, 0.1), "idsds: spread, seeds")),
    ),
    Finding(
        "fills",
        HESSE,
        "scores are stable over fills",
        "Spearman of the methods' order between the base trained and scored with zeros, and with another fill; "
        "largest standard deviation of a method's mean over fills",
        (
            *_all((0.8, 1.0), *(f"idsds: order, zeros and {name.rpartition('-')[2]}" for name in FILLS)),
            *_all((0.0, 0.1), "idsds: spread, fills"),
        ),
    ),
    Finding(
        "identity",
        HESSE,
        "without bias terms and with a zero baseline, IG = IxG",
        "largest difference of the maps by the largest value, float64; beside it the base's, with biases",
        (
            *_all((0.0, 1e-6), f"identity: {NO_BIAS}"),
            *_all((0.01, 1e9), f"identity: {BASE}"),
        ),
        by_construction=True,
    ),
)

GRID = (
    Finding(
        "gradient-difull",
        RAO,
        "gradient methods are near 1 on DiFull at every layer",
        "localization per grid; published 1",
        _all((0.95, 1.0), *(f"{name}: difull {m} {at}" for name in GRIDS for m in GRADIENT for at in LAYERS)),
        by_construction=True,
    ),
    Finding(
        "gradient-gridpg",
        RAO,
        "gradient methods are near uniform on GridPG at the input",
        "localization per grid; uniform 0.25",
        _all((0.15, 0.40), *(f"{name}: gridpg {m} input" for name in GRIDS for m in GRADIENT)),
    ),
    Finding(
        "match-gradcam",
        RAO,
        "IG and IxG match Grad-CAM at Final",
        "localization on GridPG minus that of Grad-CAM, per grid",
        _all((-0.1, 0.1), *(f"{name}: gridpg {m} - gradcam final" for name in GRIDS for m in ("ixg", "ig"))),
    ),
    Finding(
        "pooled-cams",
        RAO,
        "CAMs that pool gradients do worse on DiFull than on GridPG at Final",
        "mean localization on DiFull minus that on GridPG (other grids)",
        _all(NEGATIVE, *(f"{name}: {m} difull - gridpg final" for name in GRIDS for m in POOLED)),
    ),
    Finding(
        "layercam",
        RAO,
        "Layer-CAM does not",
        "the same of Layer-CAM",
        _all((-0.05, 2.0), *(f"{name}: layercam difull - gridpg final" for name in GRIDS)),
    ),
    Finding(
        "rise",
        RAO,
        "RISE is poor everywhere",
        "localization per grid, at all layers; uniform 0.25",
        _all((0.0, 0.5), *(f"{n}: {s} rise {at}" for n in GRIDS for s in ("gridpg", "difull") for at in LAYERS)),
    ),
    Finding(
        "occlusion",
        RAO,
        "occlusion is near 1 on DiFull at the input",
        "localization per grid",
        _all((0.9, 1.0), *(f"{name}: difull occlusion input" for name in GRIDS)),
    ),
    Finding(
        "smoothing-ig",
        RAO,
        "smoothing lifts IG on GridPG at the input",
        f"localization smoothed (K = {KERNELS['ig']}) minus plain, per grid",
        _all(POSITIVE, *(f"{name}: ig smoothed - plain" for name in GRIDS)),
    ),
    Finding(
        "smoothing-ixg",
        RAO,
        "S-IxG fails with BatchNorm",
        f"the same of IxG (K = {KERNELS['ixg']}) on the ResNet: a gain below 0.1; without BatchNorm it is larger",
        (
            *_all((-2.0, 0.1), f"{BASE}: ixg smoothed - plain"),
            *_all(POSITIVE, f"ixg smoothing gain: {NO_BATCHNORM} - {BASE}"),
        ),
    ),
    Finding(
        "smoothing-table",
        RAO,
        "smoothing brings IG near Grad-CAM (VGG +.46, ResNet +.45), IxG less (VGG +.22, ResNet +.04)",
        "gain in the Spearman correlation of GridPG localization with Grad-CAM at Final, over cells of grids",
        (
            *_all((0.15, 2.0), f"{VGG}: ig correlation", f"{BASE}: ig correlation"),
            *_all((0.05, 2.0), f"{VGG}: ixg correlation"),
            *_all((-0.15, 0.15), f"{BASE}: ixg correlation"),
        ),
    ),
    Finding(
        "dipart",
        RAO,
        "DiPart ≈ DiFull",
        "localization on DiPart minus DiFull, per grid",
        _all((-0.1, 0.1), *(f"{n}: {m} dipart - difull {at}" for n in GRIDS for m in ("ixg", "ig") for at in LAYERS)),
    ),
    Finding(
        "constant-gradient",
        RAO,
        "gradient scores are constant at Final before global pooling",
        "largest distance of the gradient's localization from 0.25 on GridPG, over grids",
        _all((0.0, 1e-3), *(f"{name}: gradient from uniform" for name in (BASE, NO_BATCHNORM))),
        by_construction=True,
    ),
)

SEGMENTATION = (
    Finding(
        "dea-target",
        SAKIB,
        "DEA deletes the target more than EGA and GPA (TDD)",
        "TDD minus that of EGA and of GPA, per (image, class), images resampled",
        _all(POSITIVE, "dea: target_deletion_drop - ega", "dea: target_deletion_drop - gpa"),
    ),
    Finding(
        "dea-off-target",
        SAKIB,
        "DEA changes the rest less (ODD)",
        "ODD minus that of EGA and of GPA, as above",
        _all(NEGATIVE, "dea: off_target_deletion_drop - ega", "dea: off_target_deletion_drop - gpa"),
    ),
    Finding(
        "dea-stability",
        SAKIB,
        "DEA is about as stable as the most stable baseline",
        "stability minus the higher of EGA's and GPA's",
        _all((-0.05, 2.0), "dea: stability - best baseline"),
    ),
    Finding(
        "dea-cost",
        SAKIB,
        "DEA costs more",
        "passes per map minus those of EGA and of GPA; counted, not timed",
        _all((1.0, 1e9), "dea: passes - ega", "dea: passes - gpa"),
        by_construction=True,
    ),
)

FINDINGS = (*IDSDS, *GRID, *SEGMENTATION)
"""All of them, in the order of the tables."""
