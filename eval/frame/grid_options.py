"""The flags that the grid protocols share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from eval.frame.options import EvaluationOptions
from faithfulness.core.errors import InputError, unknown_name

GRID_SETTINGS = ("difull", "gridpg", "dipart")
"""What `--setting` takes: the settings of Rao et al., classes of the package `difull`."""
METHODS = ("grad", "ixg", "ig", "gb", "gradcam", "layercam")
Key = tuple[str, int]
"""Kind and scale of compositions."""


def kind_of(setting: str) -> str:
    """The kind of composition that a setting is scored on, as published."""
    return "distinct" if setting == "gridpg" else "corners"


def check_settings(settings: list[str], scales: list[int]) -> tuple[list[str], list[int]]:
    """Settings by their plain names, and scales, each once; InputError for what no grid can be."""
    plain = [name.lower().replace("-", "").replace("_", "") for name in settings]
    for given, name in zip(settings, plain, strict=True):
        if name not in GRID_SETTINGS:
            raise unknown_name("setting", given, GRID_SETTINGS)
    if not plain or not scales:
        raise InputError("--setting and --scale need at least one value each")
    if any(not isinstance(scale, int) or scale < 2 for scale in scales):
        raise InputError(f"--scale takes whole numbers of at least 2, got {scales}")
    return list(dict.fromkeys(plain)), list(dict.fromkeys(scales))


@dataclass(kw_only=True)
class GridOptions(EvaluationOptions):
    """What the grid protocols share.

    Args:
        setting: difull, gridpg, dipart: any of them.
        scale: cells per side: 2, 3, ...
        grids: how many grids per kind of composition and scale.
        one_use: no image in two grids of a kind and scale, as published.
        confidence: grids are made of images that the model classifies rightly with at least this confidence.
        choose_with: further models that must be as confident, so that all can be scored on the same grids; none
            by default.
        compositions: files, or folders of them, of an earlier run to use instead of choosing anew.
    """

    GROUPS: ClassVar[dict[str, tuple[str, ...]]] = {
        **EvaluationOptions.GROUPS,
        "grids": ("setting", "scale", "grids", "one_use", "confidence", "choose_with", "compositions"),
    }

    setting: list[str] = field(default_factory=lambda: ["difull"])
    scale: list[int] = field(default_factory=lambda: [2])
    grids: int = 500
    one_use: bool = False
    confidence: float = 0.99
    choose_with: list[str] | None = None
    compositions: list[str] | None = None
    attributions: list[str] = field(default_factory=lambda: list(METHODS))

    def check(self) -> None:
        """Raise InputError for values that no grid evaluation can use; settings by their plain names."""
        super().check()
        self.setting, self.scale = check_settings(self.setting, self.scale)
        if self.grids < 1:
            raise InputError(f"--grids must be at least 1, got {self.grids}")
        if not 0 <= self.confidence <= 1:
            raise InputError(f"--confidence must lie in [0, 1], got {self.confidence}")

    @property
    def keys(self) -> list[Key]:
        """The compositions that the settings need."""
        return list(dict.fromkeys((kind_of(setting), scale) for scale in self.scale for setting in self.setting))
