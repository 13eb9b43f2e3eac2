"""Spans reach a collector; without one nothing is imported, and one that is away harms nothing."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from monitoring import otlp, tracing
from monitoring.tracing import Tracing
from monitoring.version import package_version
from tests.support.collector import Collector, nobody_collects

PARENT = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "vendor=1"}


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as collector:
        yield collector


@pytest.fixture
def traced(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Iterator[Tracing]:
    monkeypatch.setattr(otlp, "SEND_EVERY_MS", 20)
    tracing_on = tracing.init(collector.url, **{"instance.id": "one"})
    yield tracing_on
    tracing_on.shutdown(60)
    tracing.init(None)


@pytest.mark.parametrize(
    ("environment", "endpoint"),
    [
        ({}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a"}, "http://a"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://b"}, "http://b"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": ""}, "http://a"),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "True"}, None),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_SDK_DISABLED": "false"}, "http://a"),
    ],
)
def test_the_collector_is_the_one_that_opentelemetrys_variables_name(
    environment: dict[str, str], endpoint: str | None
) -> None:
    assert tracing.endpoint_of(environment) == endpoint


TRACES, ALL = "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL"


@pytest.mark.parametrize(
    ("endpoint", "environment", "wrong"),
    [
        ("http://a:4318", {}, None),
        ("https://a", {TRACES: "", ALL: ""}, None),
        ("https://a", {TRACES: "http/protobuf", ALL: "http/protobuf"}, None),
        ("grpc://a:4317", {}, "otlp_endpoint='grpc://a:4317' is no URL, such as http://127.0.0.1:4318"),
        ("http://", {}, "otlp_endpoint='http://' is no URL"),
        ("a:4318", {}, "otlp_endpoint='a:4318' is no URL"),
        ("http://a", {TRACES: "grpc"}, f"{TRACES}=grpc: traces are sent with http/protobuf only"),
        ("http://a", {ALL: "http/json"}, f"{ALL}=http/json: traces are sent with http/protobuf only"),
    ],
)
def test_where_spans_could_not_be_sent_is_said_at_once(
    endpoint: str, environment: dict[str, str], wrong: str | None
) -> None:
    if wrong is None:
        tracing.check_otlp(endpoint, environment)
    else:
        with pytest.raises(ValueError, match=re.escape(wrong)):
            tracing.check_otlp(endpoint, environment)


def test_the_end_of_a_process_waits_for_no_collector() -> None:
    """Its library's own end would, for as long as it likes."""
    with nobody_collects() as url:
        traced = otlp.OpenTelemetry(url, 1.0, {})
        assert traced._provider._atexit_handler is None
        traced.shutdown(0)


def test_off_it_imports_nothing() -> None:
    code = (
        "import sys, deployments.ingress, deployments.replica.service, monitoring.tracing as t; "
        "span = t.init(None).start('x', {}); span.end(); "
        # FastAPI imports the API, which is light
        "heavy = ('opentelemetry.sdk', 'opentelemetry.exporter', 'opentelemetry.proto', 'google', 'requests'); "
        "print([m for m in sys.modules if m.startswith(heavy)])"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


def test_a_span_has_its_parent_times_and_attributes(traced: Tracing, collector: Collector) -> None:
    parent = traced.start("parent", PARENT, kind="server")
    child = traced.start("child", parent.carrier, attributes={"tokens": 3, "reasons": ["stop"]}, start_ns=1_000)
    assert parent.carrier["tracestate"] == "vendor=1"
    child.end(at_ns=5_000)
    child.end()  # too late: only the first call counts
    parent.fail("engine_unavailable", "gone")
    parent.end()
    spans = collector.trace(parent.trace_id, "parent", "child")
    assert parent.trace_id == "0af7651916cd43dd8448eb211c80319c"
    assert spans["parent"].parent == "b7ad6b7169203331"
    assert spans["child"].parent == spans["parent"].id
    assert (spans["child"].start, spans["child"].end) == (1_000, 5_000)
    assert spans["child"].attributes == {"tokens": 3, "reasons": ["stop"]}
    assert (spans["parent"].kind, spans["child"].kind) == ("server", "internal")
    assert (spans["parent"].failed, spans["child"].failed) == (True, False)
    assert spans["parent"].attributes == {"error.type": "engine_unavailable"}
    resource = spans["parent"].resource
    assert (resource["service.name"], resource["service.instance.id"]) == ("starcoder", "one")
    assert set(collector.paths) == {"/v1/traces"}


def test_a_span_may_learn_its_name_and_why_it_failed_late(traced: Tracing, collector: Collector) -> None:
    client = traced.start("early", {}, kind="client", attributes={"a": 1})
    client.set({"a": 2, "b": "x"})
    client.rename("late")
    client.fail("hung", "no answer")
    client.end()
    silent = traced.start("silent", client.carrier)
    silent.fail("hung")
    silent.end()
    spans = collector.trace(client.trace_id, "late", "silent")
    assert (spans["late"].kind, spans["late"].failed) == ("client", True)
    assert spans["late"].attributes == {"a": 2, "b": "x", "error.type": "hung"}
    assert (spans["late"].message, spans["silent"].message) == ("no answer", "")
    assert (spans["silent"].failed, spans["silent"].parent) == (True, spans["late"].id)


@pytest.mark.parametrize(
    "endpoint", ["http://a:4318", "http://a:4318/", "http://a:4318/v1/traces", "http://a:4318/otel/"]
)
def test_an_endpoint_is_a_collectors_or_that_of_its_traces(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, object]] = []

    class Exporter(otlp.OTLPSpanExporter):
        def __init__(self, **options: object) -> None:
            made.append(options)
            super().__init__(**options)  # type: ignore[arg-type]

    monkeypatch.setattr(otlp, "OTLPSpanExporter", Exporter)
    sent = otlp.OpenTelemetry(endpoint, 0.25, {"instance.id": "one"})
    path = "/otel/v1/traces" if "otel" in endpoint else "/v1/traces"
    assert made == [{"endpoint": f"http://a:4318{path}", "timeout": otlp.SEND_TIMEOUT_S}]
    version = sent._provider.resource.attributes["service.version"]
    assert (version, sent.enabled) == (package_version(), True)
    assert "0.25" in sent._provider.sampler.get_description()
    sent.shutdown(60)


def test_off_it_does_nothing_and_is_what_others_find() -> None:
    off = tracing.init(None)
    assert (off is tracing.OFF, off.enabled) == (True, False)
    span = off.start("nothing", PARENT, kind="server", attributes={"a": 1}, start_ns=1)
    span.set({"a": 1})
    span.rename("other")
    span.fail("hung")
    span.end(2)
    assert (span.carrier, span.trace_id) == ({}, "")
    off.shutdown(0.0)
    assert tracing.current() is off


def test_what_was_made_last_is_what_others_find(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[object, ...]] = []

    class Sent(tracing.NoTracing):
        enabled = True

        def __init__(self, *arguments: object) -> None:
            made.append(arguments)

    monkeypatch.setattr(otlp, "OpenTelemetry", Sent)
    sent = tracing.init("http://a")
    assert tracing.current() is sent is not tracing.OFF
    tracing.init("http://b", 0.5, **{"instance.id": "one"})
    assert made == [("http://a", 1.0, {}), ("http://b", 0.5, {"instance.id": "one"})]
    tracing.init(None)


@pytest.mark.parametrize("carrier", [{}, {"traceparent": "nonsense"}, {"traceparent": "00-" + "0" * 32 + "-1-01"}])
def test_without_a_usable_parent_a_trace_begins(traced: Tracing, collector: Collector, carrier: dict[str, str]) -> None:
    span = traced.start("root", carrier)
    span.end()
    assert collector.trace(span.trace_id, "root")["root"].parent == ""


def test_the_callers_decision_to_sample_is_kept(traced: Tracing, collector: Collector) -> None:
    unsampled = traced.start("dropped", {"traceparent": PARENT["traceparent"][:-2] + "00"})
    assert unsampled.carrier["traceparent"].endswith("-00")
    assert unsampled.trace_id == "", "whoever looks for it would find nothing"
    traced.start("dropped below", unsampled.carrier).end()
    unsampled.end()
    kept = traced.start("kept", {})
    kept.end()
    collector.trace(kept.trace_id, "kept")
    assert {span.name for span in collector.spans()} == {"kept"}


def test_a_ratio_of_zero_records_what_callers_ask_for_only(collector: Collector) -> None:
    none = tracing.init(collector.url, 0.0)
    none.start("ours", {}).end()
    asked = none.start("theirs", PARENT)
    asked.end()
    collector.trace(asked.trace_id, "theirs")
    none.shutdown(60)
    tracing.init(None)
    assert {span.name for span in collector.spans()} == {"theirs"}


def test_a_collector_that_is_away_delays_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(otlp, "SEND_TIMEOUT_S", 600)  # far longer than it may take here on any machine
    with nobody_collects() as url:
        away = tracing.init(url)
        for _ in range(5_000):  # more than the queue holds
            away.start("lost", {}).end()
        asked_at = time.monotonic()
        away.shutdown(0.2)
        assert time.monotonic() - asked_at < 30
        tracing.init(None)
