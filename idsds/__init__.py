"""IDSDS: the in-domain single-deletion score (Hesse, Schaub-Meyer, Roth, NeurIPS 2024)."""

from idsds.evidence import DomainEvidence, domain_evidence, probe_images
from idsds.functional import (
    cell_sums,
    deleted_logits,
    drop_scale,
    drops_of,
    incremental_deletion,
    output_drops,
    outputs_of,
    rank_correlation,
)
from idsds.metric import InDomainSingleDeletion

__all__ = [
    "DomainEvidence",
    "InDomainSingleDeletion",
    "cell_sums",
    "deleted_logits",
    "domain_evidence",
    "drop_scale",
    "drops_of",
    "incremental_deletion",
    "output_drops",
    "outputs_of",
    "probe_images",
    "rank_correlation",
]
