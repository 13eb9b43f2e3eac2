"""Recording rules, alerts and their runbook; Prometheus' own tool says whether they fire."""

from __future__ import annotations

import os
import re
import subprocess
from functools import cache
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from monitoring import labels, metrics
from monitoring.connections import ConnectionMetrics
from monitoring.ingress import IngressMetrics
from monitoring.process import expect_farewell, init, render
from monitoring.replica import ReplicaMetrics
from monitoring.routing import RoutingMetrics
from monitoring.specs import FIRST_TOKEN_OBJECTIVE_S
from tests.monitoring.test_boards import RULES, SERIES, names, recorded
from tests.support.programs import program

ROOT = Path(__file__).parents[2]
ALERTS: list[dict[str, Any]] = yaml.safe_load((RULES / "alerts.yaml").read_text())["groups"][0]["rules"]
VALUES = {
    ("requests_total", "outcome"): labels.OUTCOMES,
    ("requests_rejected_total", "reason"): labels.REJECTION_REASONS,
    ("rank_failures_total", "cause"): labels.FAILURE_CAUSES,
    ("routing_decisions_total", "reason"): labels.ROUTING_REASONS,
    ("process_deaths_total", "process"): labels.PROCESSES,
    ("usage_tokens_total", "kind"): labels.USAGE_KINDS,
    ("wasted_tokens_total", "cause"): labels.WASTE_CAUSES,
    ("request_success_total", "finished_reason"): labels.FINISH_REASONS,
    ("connections_refused_total", "reason"): labels.CONNECTION_REFUSALS,
}
"""Counter and label -> what it may be."""
RECORDED: dict[str, str] = {
    rule["record"]: rule["expr"]
    for group in yaml.safe_load((RULES / "recording.yaml").read_text())["groups"]
    for rule in group["rules"]
}
"""What is recorded -> of what."""
EACH_ALERT = pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
CASES = sorted((RULES / "tests").glob("*.yaml"))
EACH_FILE = pytest.mark.parametrize("file", CASES, ids=lambda file: file.stem)


@cache
def cases() -> list[dict[str, Any]]:
    return [case for file in CASES for case in yaml.safe_load(file.read_text())["tests"]]


def read_by(expression: str) -> set[str]:
    """The series that an expression reads, also by what is recorded."""
    read = {series for name in names(expression) for series in (names(RECORDED[name]) if name in RECORDED else {name})}
    return read | set(re.findall(r"\bup\b", expression))


def promtool(*arguments: str) -> str:
    command = [program("promtool", "prometheus"), *arguments]
    # It opens a storage a case: garbage is not looked for before there is a lot.
    environment = {**os.environ, "GOGC": "off", "GOMEMLIMIT": "512MiB"}
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, env=environment)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def test_prometheus_takes_the_rules() -> None:
    said = promtool("check", "rules", *map(str, sorted(RULES.glob("*.yaml"))))
    assert f"{len(ALERTS)} rules found" in said


def looked_at(case: dict[str, Any]) -> frozenset[str]:
    """Names of the rules that decide a case: of alerts, and of what is recorded; of all where it asks for any alert."""
    asked = [check["expr"] for check in case["promql_expr_test"]]
    alerts = {alert["alert"]: alert["expr"] for alert in ALERTS}
    if re.search(r"ALERTS(?!\{alertname=)", str(asked)):
        return frozenset([*alerts, *RECORDED])
    named = set(re.findall(r'alertname="(\w+)"', str(asked)))
    assert named <= alerts.keys(), asked
    found, left = named, [*asked, *(alerts[name] for name in named)]
    while left:
        new = names(left.pop()) & RECORDED.keys() - found
        found |= new
        left += (RECORDED[name] for name in new)
    return frozenset(found)


def with_rules_of_their_own(file: Path, directory: Path) -> list[Path]:
    """The cases of a file, each with the rules that decide it only: most of the work is for the others."""
    whole = yaml.safe_load(file.read_text())
    together: dict[frozenset[str], list[dict[str, Any]]] = {}
    for case in whole["tests"]:
        together.setdefault(looked_at(case), []).append(case)
    rules = [yaml.safe_load((file.parent / path).read_text())["groups"] for path in whole["rule_files"]]
    written = []
    for number, (wanted, some) in enumerate(together.items()):
        kept = [
            {**group, "rules": [rule for rule in group["rules"] if (rule.get("alert") or rule["record"]) in wanted]}
            for group in chain(*rules)
        ]
        used, tests = directory / f"rules{number}.yaml", directory / f"tests{number}.yaml"
        used.write_text(yaml.safe_dump({"groups": [group for group in kept if group["rules"]]}))
        tests.write_text(yaml.safe_dump({**whole, "rule_files": [used.name], "tests": some}))
        written.append(tests)
    return written


@EACH_FILE
def test_alerts_fire_when_they_should_and_only_then(file: Path, tmp_path: Path) -> None:
    files = with_rules_of_their_own(file, tmp_path)
    assert promtool("test", "rules", *map(str, files)).count("SUCCESS") == len(files)


@EACH_ALERT
def test_each_alert_has_a_case_that_fires_and_a_near_miss(alert: dict[str, Any]) -> None:
    """A near miss has something of what the alert reads: nothing at all is no reason to be silent."""
    about = [
        (case, check)
        for case in cases()
        for check in case["promql_expr_test"]
        if f'alertname="{alert["alert"]}"' in check["expr"]
    ]
    assert any(check["exp_samples"] for _, check in about)
    silent = [case for case, check in about if not check["exp_samples"]]
    given = [{re.split(r"[{ ]", series["series"])[0] for series in case["input_series"]} for case in silent]
    assert any(read_by(alert["expr"]) & series for series in given)


@EACH_ALERT
def test_each_alert_names_what_exists(alert: dict[str, Any]) -> None:
    for name in names(alert["expr"]):
        assert name in SERIES or name in recorded() or name.startswith("ray_serve_"), name
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"]["summary"].endswith(".")


@EACH_ALERT
def test_each_alert_has_an_entry_in_the_runbook(alert: dict[str, Any]) -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    entries = dict(re.findall(r"^## (\w+)\n(.*?)(?=^## |\Z)", text, flags=re.MULTILINE | re.DOTALL))
    entry = entries[alert["alert"]]
    assert "**Look at**" in entry
    assert "**Do**" in entry
    assert alert["annotations"]["runbook"] == f"docs/runbook.md#{alert['alert'].lower()}"
    anchors = {f"#{name.lower()}" for name in entries}
    assert set(re.findall(r"\]\((#\w+)\)", entry)) <= anchors
    settings = (ROOT / "deployments" / "settings.py").read_text()
    for setting in re.findall(r"`([a-z]+(?:-[a-z]+)+)`", entry):
        assert f"    {setting.replace('-', '_')}:" in settings, f"{setting} is no setting"


def test_the_runbook_has_no_entry_too_many() -> None:
    entries = re.findall(r"^## (\w+)$", (ROOT / "docs" / "runbook.md").read_text(), flags=re.MULTILINE)
    assert entries == [alert["alert"] for alert in ALERTS]


def counted(expression: str) -> set[str]:
    """Counters of ours of which an expression takes a rate or an increase."""
    return set(re.findall(r"(?:rate|increase)\s*\(\s*(starcoder_\w+_total)\b", expression))


def test_counters_in_rules_begin_at_zero_for_every_value_of_their_labels() -> None:
    """Prometheus sees no increase in a series whose first sample is 1: the first failure would be none."""
    expressions = [*(alert["expr"] for alert in ALERTS), *RECORDED.values()]
    init(None)
    try:
        IngressMetrics("pico"), ReplicaMetrics("pico"), ConnectionMetrics("pico"), RoutingMetrics("pico")
        for process in labels.PROCESSES:
            expect_farewell(process, "pico")
        families = text_string_to_metric_families(render().decode())
        found = [sample for family in families for sample in family.samples]
    finally:
        init(None)
    used = set().union(*map(counted, expressions))
    assert used
    for spec in metrics.declared():
        if spec.full_name not in used:
            continue
        series = [sample for sample in found if sample.name == spec.full_name]
        assert series, spec.full_name
        assert {sample.value for sample in series} == {0}
        for label in set(spec.labels) - {"model", "team", "dialect"}:
            assert {sample.labels[label] for sample in series} == set(VALUES[spec.name, label])


def test_objectives_lie_on_buckets() -> None:
    """`le` must be written as the exposition writes it, or the series does not exist."""
    text = (RULES / "recording.yaml").read_text()
    bounds = {float(bound) for bound in re.findall(r'le="([\d.]+)"', text)}
    assert bounds == {FIRST_TOKEN_OBJECTIVE_S}
    assert bounds <= set(metrics.HTTP_FIRST_TOKEN.buckets)
    assert set(re.findall(r'le="([\d.]+)"', text)) == {str(bound) for bound in bounds}
