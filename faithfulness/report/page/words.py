"""What the page says of protocols and pictures; what isn't known here goes by its own name."""

from __future__ import annotations

PROTOCOLS = {
    "idsds": (
        "IDSDS",
        "Per image, the Spearman correlation ρ between what deleting each cell costs the output and the attribution "
        "inside the cells, for a model that was trained with deletion. 1 is perfect, 0 is chance.",
    ),
    "idsds (single)": (
        "Single deletion",
        "As IDSDS, for a model that never saw deletion in training: deleted images are out of its domain.",
    ),
    "incremental": ("Incremental deletion", "The mean probability of the class while pixels are deleted step by step."),
    "difull": (
        "Grids (DiFull, GridPG, DiPart)",
        "The share of positive attribution inside the cell that the explained head sees. In DiFull the other cells "
        "provably can't matter, so all attribution there is wrong.",
    ),
    "mlatt": (
        "ML-Att",
        "Localization of every method at the same layers, so that methods are compared, not layers. The correlations "
        "tell how alike a method is to Grad-CAM at the final layer when its maps are smoothed.",
    ),
    "aggatt": (
        "AggAtt",
        "All maps of the data set, sorted by their localization and averaged in bins: the usual map, and the worst.",
    ),
    "dea": (
        "Segmentation (DEA)",
        "Does deleting what a map highlights change the target region, and only that? How stable is the map, and what "
        "does it cost?",
    ),
    "leakage": ("Leakage", "Whether a head can be reached by cells that it must not see."),
    "explain": (
        "Pictures of one's own",
        "What eval.explain made of single pictures: each map over the picture, its sums over the cells, and how well "
        "they rank the true drops.",
    ),
}
"""Kind of result -> its title, and how to read it."""

PICTURES = {
    "ranking": "mean and 95 % interval of each method",
    "distribution": "how the images' values spread, per method",
    "tests": "corrected p-values of all pairs of methods; a pale cell is a difference that the data don't show",
    "evidence": "accuracy with each cell deleted",
    "examples": "example sheet: each image beside the maps of the methods",
    "localization": "mean localization of all methods, layers and settings",
    "localization-": "localization, a box per method",
    "impossible_attribution": "mean share of attribution where none can be right, of all methods, layers and settings",
    "impossible_attribution-": "share of attribution where none can be right, a box per method",
    "correlation": "correlation with the reference after smoothing",
    "bins": "mean positive attribution in bins of localization, best maps first",
    "faithfulness_stability": "faithfulness against stability",
    "faithfulness_cost": "faithfulness against cost",
    "curve_target": "what happens to the target while pixels go",
    "curve_off_target": "what happens off target while pixels go",
    "curve_insertion": "the target's probability while pixels come back",
    "influence": "what can reach the head of the first cell",
}
"""How the name of a picture begins -> what it shows."""
SHEET = "examples"
"""How the names of pictures begin that show single images."""


def about_protocol(kind: str) -> tuple[str, str]:
    """The title of a kind of result, and how to read it."""
    return PROTOCOLS.get(kind, (kind, ""))


def place_of(kind: str) -> int:
    """Where a kind of result stands among others: in the order above, unknown ones at the end."""
    return [*PROTOCOLS, kind].index(kind)


def about_picture(name: str) -> str:
    """What a picture shows, by the name of its file."""
    known = [begin for begin in PICTURES if name.startswith(begin)]
    if not known:
        return name.replace("_", " ")
    begin = max(known, key=len)
    rest = name[len(begin) :].strip("-_").replace("_", " ")
    return f"{PICTURES[begin]} ({rest})" if rest else PICTURES[begin]
