"""Checkpoints by hub id, from a hub on loopback: fetched once, with a token where needed, or a clear error."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deployments.command import download
from model.checkpoint.draft import find_draft
from model.checkpoint.weights import Checkpoint
from model.config import ConfigError, EngineConfig, ModelConfig
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.fake_hub import TOKEN, fake_hub
from tests.support.tokenizers import write_tokenizer

ROOT = Path(__file__).parents[3]
REPOSITORY = "bigcode/tiny"
SCRIPT = """
import sys
from model.config import ConfigError
from model.checkpoint.hub import resolve_checkpoint
try:
    print("found", resolve_checkpoint(*sys.argv[1:]))
except ConfigError as error:
    print("refused", error)
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("repository"), random_model())


def resolve(endpoint: str, home: Path, *arguments: str, **environment: str) -> str:
    """In a process of its own, since the hub's library reads its settings on import."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT, *arguments],
        env={**clean, "HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1", **environment},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip().splitlines()[-1]


def test_downloads_once_and_then_works_offline(repository, tmp_path):
    with fake_hub(REPOSITORY, repository) as (endpoint, asked):
        (repository / "pytorch_model.bin").write_bytes(b"not wanted beside safetensors")
        answer = resolve(endpoint, tmp_path, REPOSITORY)
        (repository / "pytorch_model.bin").unlink()
        assert answer.startswith("found ")
        directory = Path(answer.removeprefix("found "))
        assert ModelConfig.from_checkpoint(directory) == ModelConfig.from_checkpoint(repository)
        assert "transformer.wte.weight" in Checkpoint(directory)
        assert not [path for path in asked if path.endswith(".bin")]
        assert resolve(endpoint, tmp_path, REPOSITORY, HF_HUB_OFFLINE="1") == answer
    assert "HF_HUB_OFFLINE is set" in resolve(endpoint, tmp_path, "bigcode/other", HF_HUB_OFFLINE="1")
    assert "hub cannot be reached" in resolve(endpoint, tmp_path, "bigcode/other")


def test_pickled_weights_are_fetched_where_there_is_nothing_else(repository, tmp_path):
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_bytes((repository / "config.json").read_bytes())
    torch.save(random_model().state_dict(), pickled / "pytorch_model.bin")
    with fake_hub(REPOSITORY, pickled) as (endpoint, _):
        answer = resolve(endpoint, tmp_path / "home", REPOSITORY)
    assert "transformer.wte.weight" in Checkpoint(Path(answer.removeprefix("found ")))


def test_a_gated_repository_needs_a_token_with_access(repository, tmp_path):
    with fake_hub(REPOSITORY, repository, gated=True) as (endpoint, _):
        assert "is gated" in (answer := resolve(endpoint, tmp_path, REPOSITORY))
        assert "is not set" in answer
        assert "is set, but has no access" in resolve(endpoint, tmp_path, REPOSITORY, HF_TOKEN="hf_wrong")
        assert resolve(endpoint, tmp_path, REPOSITORY, HF_TOKEN=TOKEN).startswith("found ")


def test_what_does_not_exist_is_said_so(repository, tmp_path):
    with fake_hub(REPOSITORY, repository) as (endpoint, _):
        assert "no such repository on the hub" in resolve(endpoint, tmp_path, "bigcode/nothing")
        assert "has no revision 'v9'" in resolve(endpoint, tmp_path, REPOSITORY, "v9")
        assert "not a hub id" in resolve(endpoint, tmp_path, "a/b/c")
        assert "valid hub id" in resolve(endpoint, tmp_path, "no spaces/please")


def test_a_draft_model_is_fetched_beside_its_model(tmp_path, capsys):
    model, small, other = (
        write_tokenizer(write_checkpoint(tmp_path / name, random_model(n_layer=1, vocab_size=size)))
        for name, size in (("model", 1200), ("small", 1200), ("other", 1300))
    )
    assert download.run([str(model), "--draft-model", str(small)]) == 0
    assert f"starcoder serve --model {model} --draft-model {small}\n" in capsys.readouterr().err
    with pytest.raises(ConfigError, match="no draft_model"):
        download.run([str(model), "--draft-revision", "main"])
    with pytest.raises(ConfigError, match="vocab_size=1300"):
        download.run([str(model), "--draft-model", str(other)])
    (small / "model.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"no weights|holds no"):
        download.run([str(model), "--draft-model", str(small)])


def test_a_draft_model_is_downloaded_whatever_its_window_is_since_the_server_may_serve_less(tmp_path):
    model, small = (
        write_tokenizer(write_checkpoint(tmp_path / name, random_model(n_layer=1, vocab_size=1200, n_positions=window)))
        for name, window in (("model", 200), ("small", 100))
    )
    assert download.run([str(model), "--draft-model", str(small)]) == 0
    config = EngineConfig(model=str(model), draft_model=str(small))
    shape = ModelConfig.from_checkpoint(model)
    assert find_draft(config.model_copy(update={"max_model_len": 100}), shape, model) is not None
    with pytest.raises(ConfigError, match="window of 100 positions"):
        find_draft(config, shape, model)


def test_download_prepares_a_cache_that_serves_offline_and_read_only(repository, tmp_path):
    """As in Kubernetes: a Job fills the volume, servers mount it read-only and never ask the hub."""

    home = tmp_path / "home"

    def command(endpoint: str, home: Path, offline: bool) -> subprocess.CompletedProcess[str]:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("HF_")}
        environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
        if offline:
            environment["HF_HUB_OFFLINE"] = "1"
        return subprocess.run(
            [sys.executable, "-m", "deployments.command.cli", "download", REPOSITORY],
            env={**clean, **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            timeout=240,
        )

    whole = write_tokenizer(write_checkpoint(tmp_path / "repository", random_model(vocab_size=1200)))
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):  # not whole yet: a worker waits on
        download.run([str(repository)])
    with fake_hub(REPOSITORY, whole) as (endpoint, _):
        fetched = command(endpoint, home, offline=False)
    assert fetched.returncode == 0, fetched.stderr
    directory = Path(fetched.stdout.strip())
    assert f"starcoder serve --model {REPOSITORY} --revision {directory.name}\n" in fetched.stderr
    paths = [home, *home.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths if not path.is_symlink()}
    try:
        for path, mode in modes.items():
            path.chmod(mode & ~0o222)
        before = {path: path.lstat().st_mtime_ns for path in paths}
        again = command("http://127.0.0.1:9", home, offline=True)
        assert again.returncode == 0, again.stderr
        assert Path(again.stdout.strip().splitlines()[-1]) == directory
        # Root may write anywhere: that nothing was written is what counts.
        assert {path: path.lstat().st_mtime_ns for path in [home, *home.rglob("*")]} == before
    finally:
        for path, mode in modes.items():
            path.chmod(mode)
