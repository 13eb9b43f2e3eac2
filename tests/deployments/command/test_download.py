"""What `starcoder download` asks for, looks at and says; from a hub: tests/model/checkpoint/test_hub.py."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from deployments.command import cli, download
from model.checkpoint.draft import Draft
from model.config import ConfigError, EngineConfig, ModelConfig

COMMIT, OTHER = "a" * 40, "b" * 40
IN_CACHE = Path("/hub/models--owner--large/snapshots", COMMIT)
DRAFT_IN_CACHE = Path("/hub/models--owner--small/snapshots", OTHER)


class Hub:
    """looked_at: what was asked of it and of the checkpoints, in order. wrong: what is found out about one of them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, model: Path, draft: Path | None) -> None:
        self.looked_at: list[object] = []
        self.wrong: tuple[str, Path] | None = None
        self.configs: list[EngineConfig] = []
        self._shapes = {path: object() for path in (model, draft)}
        self._model, self._draft = model, draft
        monkeypatch.setattr(download, "resolve_checkpoint", self._resolved)
        monkeypatch.setattr(download, "ModelConfig", SimpleNamespace(from_checkpoint=self._shapes.__getitem__))
        monkeypatch.setattr(download, "find_draft", self._find_draft)
        monkeypatch.setattr(download, "Checkpoint", lambda path: self._part("weights", path))
        tokenizers = SimpleNamespace(from_checkpoint=lambda path: self._part("tokens", path))
        monkeypatch.setattr(download, "Tokenizer", tokenizers)

    def _resolved(self, model: str, revision: str | None) -> Path:
        self.looked_at.append((model, revision))
        return self._model

    def _find_draft(self, config: EngineConfig, model: ModelConfig, directory: Path, windows: bool) -> Draft | None:
        assert (model is self._shapes[self._model], directory, windows) == (True, self._model, False)
        self.configs.append(config)
        if self._draft is None:
            return None
        shape: Any = self._shapes[self._draft]
        return Draft(config, shape, self._draft)

    def _part(self, kind: str, path: Path) -> Any:
        def check(model: ModelConfig) -> None:
            assert model is self._shapes[path]
            self.looked_at.append((kind, path))
            if (kind, path) == self.wrong:
                raise ConfigError("something is missing")

        return SimpleNamespace(check=check)


@pytest.mark.parametrize(("model", "pinned"), [(IN_CACHE, f" --revision {COMMIT}"), (Path("/elsewhere"), "")])
def test_a_model_is_pinned_where_it_has_a_revision(
    model: Path, pinned: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub(monkeypatch, model, None)
    assert cli.main(["download", "owner/large", "--revision", "v1"]) == 0
    assert hub.looked_at == [("owner/large", "v1"), ("weights", model), ("tokens", model)]
    assert hub.configs == [EngineConfig(model="owner/large")]
    told = f"Serve it, as it is now: starcoder serve --model owner/large{pinned}\n"
    assert capsys.readouterr() == (f"{model}\n", told)


def test_a_draft_model_is_pinned_beside_it(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hub = Hub(monkeypatch, IN_CACHE, DRAFT_IN_CACHE)
    assert cli.main(["download", "owner/large", "--draft-model", "owner/small", "--draft-revision", "v2"]) == 0
    assert hub.looked_at[0] == ("owner/large", None)
    assert hub.looked_at[-1] == ("weights", DRAFT_IN_CACHE)
    assert hub.configs == [EngineConfig(model="owner/large", draft_model="owner/small", draft_revision="v2")]
    served = f"--model owner/large --revision {COMMIT} --draft-model owner/small --draft-revision {OTHER}"
    assert capsys.readouterr().err == f"Serve it, as it is now: starcoder serve {served}\n"


@pytest.mark.parametrize("wrong", [("weights", IN_CACHE), ("tokens", IN_CACHE), ("weights", DRAFT_IN_CACHE)])
def test_what_is_not_whole_is_not_said_to_be_there(
    wrong: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    hub = Hub(monkeypatch, IN_CACHE, DRAFT_IN_CACHE)
    hub.wrong = wrong
    assert cli.main(["download", "owner/large", "--draft-model", "owner/small"]) == 2
    assert capsys.readouterr() == ("", "starcoder download: something is missing\n")
