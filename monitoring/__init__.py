"""Metrics: declared once in `metrics.py`, recorded through `recorders.py`, scraped as text from `process.py`."""

from monitoring.process import CONTENT_TYPE, init, render
from monitoring.recorders import IngressMetrics, ReplicaMetrics

__all__ = ["CONTENT_TYPE", "IngressMetrics", "ReplicaMetrics", "init", "render"]
