"""A draft model beside the model that is served: its checkpoint, how it runs, and whether it fits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from model.checkpoint.hub import resolve_checkpoint
from model.config import NO_DRAFT_MODEL, ConfigError, EngineConfig, ModelConfig
from model.limits import DRAFT_PASS_TOKENS, DRAFTING_SEQUENCES


@dataclass(frozen=True)
class Draft:
    """config: of an engine that would run it as it runs for drafts: whole, on one rank."""

    config: EngineConfig
    model: ModelConfig
    directory: Path


def find_draft(config: EngineConfig, model: ModelConfig, directory: Path, windows: bool = True) -> Draft | None:
    """The draft model of `config`, for the `model` in `directory`; None where there is to be none.

    windows: it is known how long sequences may get, and its window has to be as long.

    Raises ConfigError where it cannot be had, or does not fit.
    """
    if config.draft_model is None:
        if config.draft_revision is not None:
            raise ConfigError(NO_DRAFT_MODEL)
        return None
    found = resolve_checkpoint(config.draft_model, config.draft_revision)
    draft = ModelConfig.from_checkpoint(found)
    config.check_draft(model, draft, windows)
    if config.load_format == "auto":
        check_vocabulary(directory, found)
    longest = config.max_model_len or model.n_positions
    return Draft(draft_config(config.model_copy(update={"max_model_len": longest})), draft, found)


def draft_config(config: EngineConfig) -> EngineConfig:
    """How the draft model of `config` runs. Its cache has as many blocks as the other model's."""
    assert config.draft_model is not None
    return config.model_copy(
        update={
            "model": config.draft_model,
            "revision": config.draft_revision,
            "tensor_parallel_size": 1,
            "decode_context_parallel_size": 1,
            "max_num_seqs": min(config.max_num_seqs, DRAFTING_SEQUENCES),
            "max_num_batched_tokens": max(DRAFT_PASS_TOKENS.values()),
            "speculative_tokens": 0,
            "draft_model": None,
            "draft_revision": None,
        }
    )


def check_vocabulary(directory: Path, draft: Path) -> None:
    """Raise ConfigError where an id is one token to one model and another to the other.

    Checkpoints that have no tokenizer, neither of them, are trusted: the engine itself knows ids alone.
    """
    own, drafted = vocabulary_of(directory), vocabulary_of(draft)
    if own is None and drafted is None:
        return
    if own is None or drafted is None:
        raise ConfigError(
            f"{directory if own is None else draft} holds no tokenizer.json, and the other model does: whether a draft "
            "is made of the model's own tokens cannot be told"
        )
    if own == drafted:
        return
    if len(own) != len(drafted):
        raise ConfigError(f"the draft model has another tokenizer: {len(drafted)} tokens, and the model {len(own)}")
    differing = sorted((id, token) for token, id in own.items() if drafted.get(token) != id)
    id, token = differing[0]
    other = next((name for name, number in drafted.items() if number == id), None)
    raise ConfigError(
        f"the draft model has another tokenizer: {len(differing)} tokens differ. {id} is {token!r}, and there {other!r}"
    )


def vocabulary_of(directory: Path) -> dict[str, int] | None:
    """Ids of all tokens of `directory/tokenizer.json`, those added to it included; None where there is no such file.

    Raises ConfigError where it is no tokenizer's.
    """
    path = directory / "tokenizer.json"
    try:
        rules = json.loads(path.read_text(encoding="utf-8"))
        return dict(rules["model"]["vocab"]) | {added["content"]: added["id"] for added in rules["added_tokens"]}
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{path} is not a tokenizer: {type(error).__name__}: {error}") from error
