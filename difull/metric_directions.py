"""Which way the metrics of this protocol point."""

METRICS = {"localization": True, "impossible_attribution": False}
"""Metric name -> whether a higher value is better."""
