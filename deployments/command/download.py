"""`starcoder download`: fetch a checkpoint into the hub cache (`HF_HOME`), so that servers can run offline."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from deployments.options import OptionParser
from model.checkpoint.files import Checkpoint
from model.checkpoint.hub import resolve_checkpoint, revision_of
from model.config import ModelConfig
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
    print(directory)
    print(_how_to_serve(options.model, directory), file=sys.stderr)
    return 0


def _how_to_serve(model: str, directory: Path) -> str:
    revision = revision_of(directory)
    pinned = "" if revision is None else f" --revision {revision}"
    return f"Serve it, as it is now: starcoder serve --model {model}{pinned}"
