"""Metrics: declared once in `metrics.py`, recorded through `ingress.py` and `replica.py`, scraped from `process.py`."""

from monitoring.ingress import IngressMetrics
from monitoring.process import CONTENT_TYPE, expect_farewell, farewell, init, render
from monitoring.replica import ReplicaMetrics
from monitoring.requests import RequestMetrics

__all__ = [
    "CONTENT_TYPE",
    "IngressMetrics",
    "ReplicaMetrics",
    "RequestMetrics",
    "expect_farewell",
    "farewell",
    "init",
    "render",
]
