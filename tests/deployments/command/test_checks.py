"""What `starcoder serve` looks at before it starts anything: this machine's files and ports, and no cluster's."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest

from deployments.command import checks
from deployments.command.console import Console
from deployments.settings import Settings
from model.checkpoint.draft import Draft
from model.checkpoint.hub import EMBEDDED_MODELS
from model.config import ConfigError, EngineConfig, ModelConfig
from model.pico import CHECKPOINT


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[object]:
    found: list[object] = []

    def opened(path: Path) -> Any:
        return Mock(close=lambda: found.append(("index", path)))

    monkeypatch.setattr(checks, "check_model", lambda settings, console: found.append((settings.model, console)))
    monkeypatch.setattr(checks, "check_port", lambda host, port: found.append((host, port)))
    monkeypatch.setattr(checks.Index, "open", opened)
    return found


def test_each_file_and_port_is_looked_at(looked_at: list[object], tmp_path: Path) -> None:
    console = Mock(Console)
    settings = Settings(host="::1", port=8123, metrics_port=9464, attribution={"index": tmp_path})
    checks.check(settings, console, local=True)
    assert looked_at == [(settings.model, console), ("index", tmp_path), ("::1", 8123), ("::1", 9464)]
    looked_at.clear()
    checks.check(Settings(metrics_port=None), console, local=True)
    assert looked_at == [(settings.model, console), (Settings().host, Settings().port)]


def test_a_certificate_that_is_none_is_said_before_the_model_is_fetched(
    looked_at: list[object], tmp_path: Path
) -> None:
    settings = Settings(ssl_certfile=tmp_path / "a.crt", ssl_keyfile=tmp_path / "a.key")
    with pytest.raises(ConfigError):
        checks.check(settings, Mock(Console), local=True)
    assert looked_at == []


def test_of_a_cluster_nothing_can_be_known_here(looked_at: list[object]) -> None:
    checks.check(Settings(), Mock(Console), local=False)
    assert looked_at == []


class OfAModel:
    """What `check_model` asks. asked: of the checkpoints, in order, by their directories; on_cpu: whether CPUs were."""

    FOUND, DRAFT = Path("/found"), Path("/draft")

    def __init__(self, monkeypatch: pytest.MonkeyPatch, draft: bool, gpus: int) -> None:
        self.asked: list[object] = []
        self.on_cpu = False
        self.shapes = {path: ModelConfig.from_checkpoint(CHECKPOINT) for path in (self.FOUND, self.DRAFT)}
        found = Draft(EngineConfig(model="draft"), self.shapes[self.DRAFT], self.DRAFT) if draft else None
        monkeypatch.setattr(checks, "resolve_checkpoint", self._resolved)
        monkeypatch.setattr(checks.ModelConfig, "from_checkpoint", self.shapes.__getitem__)
        monkeypatch.setattr(checks, "find_draft", self._find(found))
        monkeypatch.setattr(checks, "local_gpus", lambda: gpus)
        monkeypatch.setattr(checks, "check_cpu", self._check_cpu)
        monkeypatch.setattr(checks, "Checkpoint", lambda path: self._part("weights", path))
        monkeypatch.setattr(checks.Tokenizer, "from_checkpoint", lambda path: self._part("tokens", path))

    def _resolved(self, model: str, revision: str | None) -> Path:
        self.asked.append((model, revision))
        return self.FOUND

    def _find(self, found: Draft | None) -> Callable[..., Draft | None]:
        def find(config: EngineConfig, model: ModelConfig, directory: Path) -> Draft | None:
            assert (model is self.shapes[self.FOUND], directory) == (True, self.FOUND)
            self.asked.append(config.draft_model)
            return found

        return find

    def _check_cpu(self, settings: Settings) -> None:
        self.on_cpu = True

    def _part(self, kind: str, path: Path) -> Any:
        def check(model: ModelConfig) -> None:
            assert model is self.shapes[path]
            self.asked.append((kind, path))

        return SimpleNamespace(check=check)


@pytest.mark.parametrize("draft", [False, True])
@pytest.mark.parametrize("load_format", ["auto", "random"])
def test_of_a_model_all_is_looked_at_that_is_to_be_read(
    draft: bool, load_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = OfAModel(monkeypatch, draft, gpus=0)
    named = {"draft_model": "owner/small"} if draft else {}
    settings = Settings(model="owner/large", revision="v1", load_format=load_format, **named)
    console = Mock(Console)
    assert checks.check_model(settings, console) == world.FOUND
    weights = [("weights", world.FOUND), *([("weights", world.DRAFT)] if draft else [])]
    assert world.asked == [
        ("owner/large", "v1"),
        settings.draft_model,
        *(weights if load_format == "auto" else []),
        ("tokens", world.FOUND),
    ]
    fetched = [call.args[0].split()[:2] for call in console.say.call_args_list]
    assert fetched == [["Fetching", name] for name in ("owner/large", "owner/small")[: 1 + draft]]


@pytest.mark.parametrize("name", [EMBEDDED_MODELS[0], str(Path(__file__).parent)])
def test_of_what_is_here_already_nobody_says_that_it_is_fetched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    OfAModel(monkeypatch, draft=False, gpus=0)
    console = Mock(Console)
    checks.check_model(Settings(model=name), console)
    assert not console.say.called


@pytest.mark.parametrize(
    ("device", "gpus", "on_cpu"), [("cpu", 0, True), ("cpu", 1, True), ("auto", 0, True), ("auto", 1, False)]
)
def test_what_no_cpu_runs_is_asked_where_it_would_be_one(
    device: str, gpus: int, on_cpu: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = OfAModel(monkeypatch, draft=False, gpus=gpus)
    checks.check_model(Settings(device=device), Mock(Console))
    assert world.on_cpu is on_cpu


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"device": "cuda"}, r"needs 1 GPU\(s\); this machine has 0"),
        ({"max_model_len": 1 << 20}, "above the model's window"),
    ],
)
def test_what_the_model_or_the_gpus_contradict_is_said_before_weights_are_read(
    settings: dict[str, Any], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = OfAModel(monkeypatch, draft=False, gpus=0)
    with pytest.raises(ConfigError, match=says):
        checks.check_model(Settings(**settings), Mock(Console))
    assert not [one for one in world.asked if one and one[0] in ("weights", "tokens")]


def test_what_runs_on_no_cpu_runs_there_for_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    for interpreted in (None, "0", "1"):
        if interpreted is None:
            monkeypatch.delenv("TRITON_INTERPRET", raising=False)
        else:
            monkeypatch.setenv("TRITON_INTERPRET", interpreted)
        checks.check_cpu(Settings())
        with contextlib.nullcontext() if interpreted == "1" else pytest.raises(ConfigError, match="needs a GPU"):
            checks.check_cpu(Settings(attention="triton"))
        with pytest.raises(ConfigError, match="fp8 needs a GPU"):
            checks.check_cpu(Settings(quantization="fp8"))


@pytest.mark.parametrize(
    ("environment", "at_home", "found"),
    [
        ({}, False, False),
        ({"RAY_AUTH_TOKEN": "", "RAY_AUTH_TOKEN_PATH": ""}, False, False),
        ({"RAY_AUTH_TOKEN": "secret"}, False, True),
        ({"RAY_AUTH_TOKEN_PATH": "/run/token"}, False, True),
        ({}, True, True),
    ],
)
def test_a_token_is_found_where_ray_looks_for_it(
    environment: dict[str, str], at_home: bool, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**environment, "HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    if at_home:
        (tmp_path / ".ray").mkdir()
        (tmp_path / ".ray" / "auth_token").touch()
    assert checks.has_token() is found


@pytest.mark.parametrize(
    ("visible", "count"), [(None, 3), ("0,1", 2), ("0, 1 ,2,3", 3), ("", 0), (" ", 0), ("2,", 1), ("GPU-8f2a", 1)]
)
def test_gpus_are_those_that_are_there_and_may_be_seen(
    visible: str | None, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia12", "nvidia-uvm", "nvidiactl", "nvidia0p1", "null"):
        (tmp_path / name).touch()
    monkeypatch.setattr(checks, "Path", {"/dev": tmp_path}.__getitem__)
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert checks.local_gpus() == count


def test_a_port_can_be_listened_at_where_its_last_connections_have_not_ended() -> None:
    """They stay a minute in the kernel, of a server that has just ended: it would not start again."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as client:
        port = server.getsockname()[1]
        accepted, _ = server.accept()
        accepted.close()
        client.recv(1)
    checks.check_port("127.0.0.1", port)
