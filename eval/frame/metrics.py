"""The metrics of all protocols."""

import dea
import difull
import idsds

METRICS = {**idsds.METRICS, **difull.METRICS, **dea.METRICS}
"""Metric name -> whether a higher value is better, as `summary.json` has both."""
