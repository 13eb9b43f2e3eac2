"""What the runbook has somebody type can be typed, and what it says that the log says, the log says."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from deployments.command.ports import free_port
from monitoring.events import BY_NAME
from tests.support.programs import program

ROOT = Path(__file__).parents[3]
RUNBOOK = (ROOT / "docs" / "runbook.md").read_text()
COMMANDS = [
    line
    for block in re.findall(r"^```console\n(.*?)^```", RUNBOOK, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]


def beginning(*words: str) -> Any:
    found = [line for line in COMMANDS if line.startswith(words)]
    return pytest.mark.parametrize("line", found, ids=[line[:60] for line in found])


def typed(line: str, directory: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line],
        cwd=directory,
        env={**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_command_is_tried_by_a_test_below() -> None:
    known = ("export ", "starcoder ", "curl ", "jq ", "systemctl ", "journalctl ", "docker compose ", "kubectl ")
    assert [line for line in COMMANDS if not line.startswith((*known, "serve ", "ray "))] == []
    assert len(COMMANDS) > 15


@beginning("starcoder ", "curl ")
def test_the_server_answers(line: str, url: str, tmp_path: Path) -> None:
    program("jq")
    done = typed(line, tmp_path, STARCODER_URL=url)
    assert (done.returncode, done.stderr) == (0, "")


@beginning("jq ")
def test_the_log_is_searched(line: str, tmp_path: Path) -> None:
    """Each finds its line in the samples of the documentation, or in one that failed."""
    program("jq")
    samples = re.findall(r'^\{"time".*\}$', (ROOT / "docs" / "observability.md").read_text(), re.MULTILINE)
    failed = {**json.loads(samples[0]), "level": "error", "outcome": "failed", "error": {"code": "internal_error"}}
    (tmp_path / "server.log").write_text("\n".join([*samples, json.dumps(failed)]) + "\n")
    done = typed(line, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert 1 <= len(done.stdout.splitlines()) < len(samples) + 1


@beginning("kubectl ")
def test_kubectl_understands_it(line: str, tmp_path: Path) -> None:
    """It comes to ask for a cluster, which is not there. One that runs in a pod is tried with a pod of any name."""
    program("kubectl", "kubernetes-client")
    server = f"http://127.0.0.1:{free_port()}"
    line = re.sub(r'"\$\((kubectl [^)]*)\)"', "pod/any", line).partition(" | ")[0]
    done = typed(f"{line.replace('kubectl', f'kubectl --server={server}', 1)}", tmp_path, KUBECONFIG=os.devnull)
    assert done.returncode == 1
    assert "was refused" in done.stderr
    assert not re.search("unknown|invalid|usage", done.stderr, re.IGNORECASE)


@beginning("docker compose ")
def test_compose_has_the_service(line: str) -> None:
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    words = shlex.split(line.partition(" | ")[0])
    assert words[2] in ("exec", "logs")
    service = next(word for word in words[3:] if word in services)
    assert service == "starcoder"


@beginning("systemctl ", "journalctl ")
def test_the_unit_is_there(line: str, tmp_path: Path) -> None:
    program(line.split()[0], "systemd")
    assert (ROOT / "deployments" / "systemd" / "starcoder.service").exists()
    assert re.search(r"\bstarcoder\b", line)
    assert "option" not in typed(line.partition(" | ")[0], tmp_path).stderr


@beginning("serve ", "ray ")
def test_ray_has_the_command(line: str) -> None:
    from ray.scripts.scripts import cli as ray_commands
    from ray.serve.scripts import cli as serve_commands

    first, second, *rest = shlex.split(line)
    command = {"ray": ray_commands, "serve": serve_commands}[first].commands[second]
    assert isinstance(command, click.Command)
    command.make_context(second, rest)


def test_events_that_it_names_are_written() -> None:
    named = set(re.findall(r"`([a-z_]+\.[a-z_]+)`", RUNBOOK)) - {"jq .status"}
    files = {name for name in named if (ROOT / name).suffix in (".jsonl", ".damaged", ".yaml")}
    assert {"engine.dead", "request.resuming"} <= named
    settings = {name for name in named if name.startswith(("api.", "teams.")) and name not in BY_NAME}
    assert named - files - settings - set(BY_NAME) == set()


def test_messages_that_it_quotes_are_written() -> None:
    """A quote of the log is in backticks, in parentheses or behind `says`, with `...` or capitals for what varies."""
    quotes = re.findall(r"(?:log \(|log says\s+)`([^`]+ [^`]+)`", RUNBOOK)
    assert len(quotes) >= 4
    code = [path.read_text() for room in ("deployments", "model", "monitoring") for path in (ROOT / room).rglob("*.py")]
    for quote in quotes:
        parts = re.split(r"\.\.\.|\b[A-Z]+\b", quote.strip())
        written = re.compile("[\"']" + ".*".join(map(re.escape, parts)))
        assert any(written.search(text) for text in code), quote
