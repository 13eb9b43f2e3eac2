"""`starcoder download`: fetch a checkpoint into the hub cache (`HF_HOME`), so that servers can run offline."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from model.checkpoint.files import Checkpoint
from model.checkpoint.hub import resolve_checkpoint
from model.config import ModelConfig
from model.text.tokenizer import Tokenizer


def run(arguments: Sequence[str]) -> int:
    """Fetch, check that nothing is missing, and print the directory. Raises ConfigError that says what to do.

    With the hub offline it only checks: so a worker waits for a download that another pod makes.
    """
    parser = argparse.ArgumentParser(prog="starcoder download", description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face hub id")
    parser.add_argument("--revision", help="branch, tag or commit")
    options = parser.parse_args(arguments)
    directory = resolve_checkpoint(options.model, options.revision)
    model = ModelConfig.from_checkpoint(directory)
    Checkpoint(directory).check(model)
    Tokenizer.from_checkpoint(directory).check(model)
    print(directory)
    return 0
