"""Which way the metrics of this protocol point, and the perturbations that its stability is measured under."""

PERTURBATION_NAMES = ("noise", "brightness", "contrast", "blur", "flip")
"""The keys of `PERTURBATIONS`, in its order, for who needs no more than the names."""

METRICS = {
    "target_deletion_drop": True,
    "off_target_deletion_drop": False,
    "insertion": True,
    "off_target_mass": False,
    "stability": True,
    **{f"stability_{name}": True for name in PERTURBATION_NAMES},
    "seconds_per_map": False,
    "passes_per_map": False,
}
"""Metric name -> whether a higher value is better, in the order of the tables."""
