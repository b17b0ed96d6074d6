"""Evidence that deletion is in-domain for a model: accuracy, agreement, separability."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from faithfulness.core.keyed import make_keys

PROBE_IMAGES = 2048
"""How many images the probe is given at most: 34 MB of features at a width of 2048, its AUROC known to 0.02."""


def probe_images(count: int, seed: int, most: int = PROBE_IMAGES) -> Int[Tensor, " m"]:
    """Which of `count` images the probe is given, chosen by key: the same on every process, sorted."""
    return make_keys(seed, torch.arange(count)).argsort(stable=True)[:most].sort().values


@dataclass(frozen=True)
class DomainEvidence:
    """How a model takes single deletions. All shares lie in [0, 1].

    Attributes:
        accuracy: on whole images; `accuracy_deleted`: mean over all single deletions.
        accuracy_per_cell: with that cell deleted, row-major.
        agreement: share of deletions that leave the prediction as it was.
        separability: AUROC of a linear probe that tells whole from deleted images by their
            penultimate features, on images it wasn't fitted to; 0.5 means it can't.
        n: images.
        n_probe: images that the probe was given.
    """

    accuracy: float
    accuracy_deleted: float
    accuracy_per_cell: list[float]
    agreement: float
    separability: float
    n: int
    n_probe: int

    def to_dict(self) -> dict[str, Any]:
        """As written to `summary.json`."""
        return asdict(self)


def domain_evidence(
    whole: Int[Tensor, " n"],
    deleted: Int[Tensor, "n k"],
    labels: Int[Tensor, " n"],
    features_whole: Float[Tensor, "m d"] | None = None,
    features_deleted: Float[Tensor, "m d"] | None = None,
) -> DomainEvidence:
    """Evidence from predicted classes of whole images (N,) and of all single deletions (N, cells).

    The features, of the whole images and of one deletion each, are for the probe, and may be those of
    some images only (`probe_images`); without them, or of fewer than 10, `separability` is NaN.
    """
    right = (deleted == labels[:, None]).double()
    separable = float("nan")
    n_probe = 0 if features_whole is None or features_deleted is None else len(features_whole)
    if features_whole is not None and features_deleted is not None and n_probe >= 10:
        separable = separability(features_whole.numpy(), features_deleted.numpy())
    return DomainEvidence(
        accuracy=float((whole == labels).double().mean()),
        accuracy_deleted=float(right.mean()),
        accuracy_per_cell=[float(value) for value in right.mean(dim=0)],
        agreement=float((deleted == whole[:, None]).double().mean()),
        separability=separable,
        n=len(whole),
        n_probe=n_probe,
    )


def separability(whole: NDArray[np.floating], deleted: NDArray[np.floating], folds: int = 5) -> float:
    """AUROC of a regularized linear probe, whole against deleted (N, D) features, cross-validated.

    Both versions of an image stay in one fold, so the probe is judged on images it hasn't seen.
    """
    features = np.concatenate([whole, deleted]).astype(np.float64)
    is_deleted = np.repeat([0, 1], len(whole))
    images = np.tile(np.arange(len(whole)), 2)
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.01, max_iter=500))
    scores = cross_val_predict(
        probe, features, is_deleted, groups=images, cv=GroupKFold(min(folds, len(whole))), method="decision_function"
    )
    return float(roc_auc_score(is_deleted, scores))
