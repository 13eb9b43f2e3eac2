"""What a Prometheus answers, read."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from benchmarks.drill.observed import Alert, Prometheus, Series
from tests.support.http_server import serving

ALERTS = [
    {
        "labels": {"alertname": "StarcoderNoEngine", "severity": "page", "model": "pico"},
        "state": "firing",
        "activeAt": "2026-11-27T12:00:05.123456789Z",
        "value": "1e+00",
    },
    {"labels": {"alertname": "Other"}, "state": "pending", "activeAt": "2026-11-27T12:00:05Z", "value": "1e+00"},
]
MATRIX = [{"metric": {"outcome": "ok"}, "values": [[100, "1.5"], [105, "NaN"], [110, "+Inf"]]}]


def alerts(request: Request) -> JSONResponse:
    return JSONResponse({"status": "success", "data": {"alerts": ALERTS}})


def query_range(request: Request) -> JSONResponse:
    if request.query_params["query"] == "up{":
        return JSONResponse({"status": "error", "error": "unexpected end of input"}, status_code=400)
    if request.query_params["query"] == "slow":
        return JSONResponse({"status": "error", "error": "query timed out"}, status_code=503)
    assert [float(request.query_params[name]) for name in ("start", "end", "step")] == [100.0, 110.0, 5.0]
    return JSONResponse({"status": "success", "data": {"resultType": "matrix", "result": MATRIX}})


def test_a_prometheus() -> None:
    app = Starlette(routes=[Route("/api/v1/alerts", alerts), Route("/api/v1/query_range", query_range)])
    with serving(app) as url:
        observed = Prometheus(url)
        assert observed.alerts() == [
            Alert("StarcoderNoEngine", "page", "firing", 1795780805.123456),
            Alert("Other", "", "pending", 1795780805.0),
        ]
        (found,) = observed.curves("up", 100.0, 110.0, 5.0)
        assert found == Series({"outcome": "ok"}, [(100, 1.5), (110, float("inf"))])
        with pytest.raises(ValueError, match=r"up\{: unexpected end of input"):
            observed.curves("up{", 100.0, 110.0, 5.0)
        with pytest.raises(OSError, match="503"):
            observed.curves("slow", 100.0, 110.0, 5.0)
    with pytest.raises(OSError, match="refused"):
        observed.alerts()
