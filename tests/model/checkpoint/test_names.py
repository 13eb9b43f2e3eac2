"""What a model's name stands for, and what the hub's library says in the words of this program."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import httpx
import huggingface_hub
import pytest
from huggingface_hub import errors

from model.checkpoint.hub import directory_of, model_card, resolve_checkpoint, revision_of
from model.config import ConfigError
from model.pico import CHECKPOINT, NANO

COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("name", "directory"),
    [
        ("owner/name", None),
        ("name", None),
        ("nano", None),
        ("pico", None),
        ("", None),
        (" ", None),
        ("here", "here"),
        ("owner/here", "owner/here"),
        ("./nowhere", "nowhere"),
        ("../nowhere", "../nowhere"),
        (".hidden", ".hidden"),
        ("a/b/c", "a/b/c"),
        ("/nowhere", "/nowhere"),
        ("here/../there", "there"),
        ("~/nowhere", "home/nowhere"),
    ],
)
def test_a_name_is_a_directory_where_it_can_be_nothing_else_or_is_there(
    name: str, directory: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for there in ("here", "owner/here", "nano"):
        (tmp_path / there).mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found = directory_of(name)
    assert found == (None if directory is None else (tmp_path / directory).resolve())
    assert found is None or found.is_absolute()


def test_embedded_models_go_before_directories_of_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pico").mkdir()
    monkeypatch.chdir(tmp_path)
    assert resolve_checkpoint("pico") == CHECKPOINT
    assert resolve_checkpoint("nano") == NANO != CHECKPOINT
    assert resolve_checkpoint("./pico") == tmp_path / "pico"
    for nothing in ("./nothing", "", "a/b/c"):
        with pytest.raises(ConfigError, match=f"^model '{nothing}': no such directory"):
            resolve_checkpoint(nothing)


@pytest.mark.parametrize(
    ("path", "revision"),
    [
        (f"hub/snapshots/{COMMIT}", COMMIT),
        (f"hub/other/{COMMIT}", None),
        (f"hub/snapshots/{COMMIT[:-1]}", None),
        (f"hub/snapshots/{COMMIT}0", None),
        ("hub/snapshots/main", None),
        (f"hub/snapshots/{COMMIT.upper()}", None),
    ],
)
def test_a_commit_is_told_by_the_hubs_cache_alone(path: str, revision: str | None) -> None:
    assert revision_of(Path(path)) == revision


def test_a_card_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    assert model_card(tmp_path) is None
    (tmp_path / "README.md").write_bytes("größe\xff".encode("latin-1"))
    assert model_card(tmp_path) == "gr\ufffd\ufffde\ufffd"
    (tmp_path / "README.md").write_bytes(b"a" * (1 << 20) + b"b")
    assert model_card(tmp_path) == "a" * (1 << 20)
    (tmp_path / "README.md").unlink()
    (tmp_path / "README.md").mkdir()
    assert model_card(tmp_path) is None


@pytest.mark.parametrize("safe", [True, False])
def test_pickled_weights_are_asked_for_only_where_there_are_no_others(
    safe: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def fetched(model: str, **options: Any) -> str:
        asked.append((model, options))
        return str(tmp_path)

    if safe:
        (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetched)
    assert resolve_checkpoint("owner/name", "v1") == tmp_path
    assert [(model, options["revision"]) for model, options in asked] == [("owner/name", "v1")] * (1 if safe else 2)
    texts = {"*.json", "*.txt", "*.jinja", "README.md", "*.safetensors"}
    assert [set(options["allow_patterns"]) for _, options in asked] == [
        texts,
        *([] if safe else [texts | {"pytorch_model*.bin"}]),
    ]


def of_the_hub(kind: type[Exception]) -> Exception:
    request = httpx.Request("GET", "https://hub.invalid")
    return kind("x", response=httpx.Response(404, request=request))  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("error", "token", "offline", "says"),
    [
        (errors.HFValidationError("bad name"), None, False, "is neither a directory nor a valid hub id: bad name$"),
        (of_the_hub(errors.GatedRepoError), None, False, r"is gated: .* \(now it is not set\)$"),
        (of_the_hub(errors.GatedRepoError), "hf_x", False, r"is gated: .* \(now it is set, but has no access\)$"),
        (of_the_hub(errors.RevisionNotFoundError), None, False, "'owner/name' has no revision 'v1'$"),
        (of_the_hub(errors.RepositoryNotFoundError), None, False, "no such directory here and no such repository"),
        (
            errors.LocalEntryNotFoundError("x"),
            None,
            False,
            r"not in the hub cache \(/.*, and the hub cannot be reached$",
        ),
        (errors.LocalEntryNotFoundError("x"), None, True, "and HF_HUB_OFFLINE is set$"),
        (errors.OfflineModeIsEnabled("x"), None, True, "and HF_HUB_OFFLINE is set$"),
        (OSError("no route"), None, False, "and the hub cannot be reached$"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_what_the_hub_refuses_is_told_with_what_would_help(
    error: Exception, token: str | None, offline: bool, says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: Any, **__: Any) -> str:
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refused)
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", offline)
    with pytest.raises(ConfigError, match=says) as raised:
        resolve_checkpoint("owner/name", "v1")
    assert str(raised.value).startswith("model 'owner/name'")
    assert raised.value.__cause__ is error


def test_what_is_no_refusal_of_the_hub_is_raised_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> str:
        raise RuntimeError("a fault of the library")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", broken)
    with pytest.raises(RuntimeError, match="a fault of the library"):
        resolve_checkpoint("owner/name")
