"""Metrics: declared once in `metrics.py`, recorded through `recorders.py`, scraped as text from `process.py`."""

from monitoring.ingress import IngressMetrics
from monitoring.process import CONTENT_TYPE, init, render
from monitoring.recorders import ReplicaMetrics, RequestMetrics

__all__ = ["CONTENT_TYPE", "IngressMetrics", "ReplicaMetrics", "RequestMetrics", "init", "render"]
