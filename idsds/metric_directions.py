"""Which way the metrics of this protocol point."""

METRICS = {"idsds": True, "single_deletion": True, "incremental_deletion": True}
"""Metric name -> whether a higher value is better. `incremental_deletion` is that of the ascending order; where the
most attributed pixels go first, lower is better."""
