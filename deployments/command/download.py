"""`starcoder download`: fetch a checkpoint into the hub cache (`HF_HOME`), so that servers can run offline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from deployments.options import OptionParser
from model.checkpoint.draft import find_draft
from model.checkpoint.files import Checkpoint
from model.checkpoint.hub import resolve_checkpoint, revision_of
from model.config import EngineConfig, ModelConfig
from model.text.tokenizer import Tokenizer


def parser() -> OptionParser:
    parser = OptionParser(
        "starcoder download",
        "Fetch a checkpoint into the hub cache (HF_HOME), so that servers can run offline (HF_HUB_OFFLINE=1). Prints "
        "the directory, and the revision by which `starcoder serve` serves exactly this.",
        epilog="Example: starcoder download bigcode/tiny_starcoder_py",
    )
    parser.add_argument("model", metavar="MODEL", help="Hugging Face hub id")
    parser.add_argument("--revision", metavar="REVISION", help="branch, tag or commit (default: the newest)")
    parser.add_argument("--draft-model", metavar="MODEL", help="one that is to draft for it, fetched as well")
    parser.add_argument("--draft-revision", metavar="REVISION", help="of that one")
    return parser


def run(arguments: Sequence[str]) -> int:
    """Fetch, check that nothing is missing, and print the directory. Raises ConfigError that says what to do.

    With the hub offline it only checks: so a worker waits for a download that another pod makes.
    """
    options = parser().parse_args(list(arguments))
    directory = resolve_checkpoint(options.model, options.revision)
    model = ModelConfig.from_checkpoint(directory)
    Checkpoint(directory).check(model)
    Tokenizer.from_checkpoint(directory).check(model)
    config = EngineConfig(model=options.model, draft_model=options.draft_model, draft_revision=options.draft_revision)
    # its window may be shorter than the model's: `max_model_len` is said to the server
    served = _named("", options.model, directory)
    if (draft := find_draft(config, model, directory, windows=False)) is not None:
        Checkpoint(draft.directory).check(draft.model)
        served += _named("draft-", options.draft_model, draft.directory)
    print(directory)
    print(f"Serve it, as it is now: starcoder serve{served}", file=sys.stderr)
    return 0


def _named(kind: str, model: str, directory: Path) -> str:
    revision = revision_of(directory)
    pinned = "" if revision is None else f" --{kind}revision {revision}"
    return f" --{kind}model {model}{pinned}"
