"""`starcoder verify`: whether the engine computes what transformers computes, on these weights and this machine."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from deployments.command.checks import check_model
from deployments.command.console import Console
from deployments.command.signals import Stopped, obeyed
from deployments.command.verify import identity, tokens
from deployments.command.verify.cases import NEW_TOKENS
from deployments.command.verify.child import Say
from deployments.command.verify.judging import Texts, judge
from deployments.command.verify.material import code, material, own_prompts
from deployments.command.verify.movement import foreseen, moved
from deployments.command.verify.readings import Drafts, EngineAnswer, Pass, Place, Rounding
from deployments.command.verify.report import Report
from deployments.command.verify.stages import run_engine, run_transformers
from deployments.options import OptionParser, size_given
from deployments.settings import Settings
from model.checkpoint.hub import directory_of, resolve_checkpoint
from model.config import ConfigError, EngineConfig, ModelConfig
from model.text.tokenizer import Tokenizer

AGREES, DISAGREES, NOT_DONE = 0, 1, 2
"""Exit codes."""

_ABOUT = (
    "Compare the engine with transformers on your weights and hardware: log-probabilities and greedy tokens of prompts "
    "of many lengths, with the settings that a server would have; and the tokenizers. The engine runs first, then "
    "transformers, on GPUs, in main memory and on disk. Exit code 0: they agree; 1: they do not; 2: it could not be "
    "done. Takes every setting of `starcoder serve` that the engine knows."
)
_OWN = ("prompts", "quick", "report", "reference_memory", "reference_device", "scratch")


def parser() -> OptionParser:
    parser = Settings.parser("starcoder verify", _ABOUT, {"config", *EngineConfig.model_fields})
    own = parser.add_argument_group("the comparison")
    own.add_argument(
        "--prompts",
        metavar="FILE",
        type=Path,
        help='prompts of yours, too: lines of JSON, {"prompt": ..., "suffix": ...}',
    )
    own.add_argument(
        "--quick", action="store_true", help="fewer prompts and shorter ones, nothing near the window's end"
    )
    own.add_argument(
        "--report",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="where to write the report, as JSON (.json) or Markdown (.md); repeatable",
    )
    own.add_argument(
        "--reference-memory",
        metavar="SIZE",
        type=size_given,
        help="main memory for transformers' weights; the rest goes to disk (default: 70%% of what is free)",
    )
    own.add_argument(
        "--reference-device",
        choices=("auto", "cpu"),
        default="auto",
        help="where transformers runs; auto: on GPUs first, unless the device is cpu",
    )
    own.add_argument(
        "--scratch", metavar="DIR", type=Path, help="where weights go that have no room (default: the system's own)"
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """The exit code. Raises ConfigError for what cannot be verified."""
    options = parser().parse_args(list(arguments))
    own = argparse.Namespace(**{name: vars(options).pop(name) for name in _OWN})
    settings = Settings.from_options(options).model_copy(update={"min_replicas": 1})  # one engine is run
    for path in own.report:
        _check_report(path)
    try:
        with obeyed():
            report = verify(settings, own)
            for path in own.report:
                as_json = path.suffix == ".json"
                path.write_text(json.dumps(report.json(), indent=1) + "\n" if as_json else report.markdown())
            _print(report)
    except Stopped:
        raise KeyboardInterrupt from None
    except ConfigError:
        raise
    except (RuntimeError, OSError) as error:
        return _not_done(str(error))
    except Exception as error:  # 1, as Python has it, would say that they do not agree
        traceback.print_exc()
        return _not_done(f"a fault of this program: {type(error).__name__}: {error}")
    return AGREES if report.agrees else DISAGREES


def _print(report: Report) -> None:
    try:
        print(report.markdown(), end="", flush=True)
    except BrokenPipeError:  # whoever read has seen enough; the verdict is the same
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _not_done(reason: str) -> int:
    print(f"starcoder verify: it could not be done: {reason}", file=sys.stderr)
    return NOT_DONE


def verify(settings: Settings, own: argparse.Namespace) -> Report:
    """Both sides, compared. own: the options of the comparison.

    Raises ConfigError, RuntimeError and OSError where it cannot be done.
    """
    started = time.monotonic()
    if settings.load_format == "random":
        raise ConfigError("load_format=random: noise has no weights that transformers could read")
    console = Console("text")
    directory = check_model(settings, console)
    tokenizer = Tokenizer.from_checkpoint(directory)
    config = settings.engine_config(model=str(directory), revision=None)
    text = code()
    prompts = _own_prompts(own, tokenizer, config, directory)
    with _scratch(own.scratch) as scratch:
        say = _timed(console, started)
        written = run_engine(config, material(tokenizer, text, prompts, own.quick), say)
        texts = Texts(written.runs)
        passes = _passes(written, settings)
        gpus = settings.device != "cpu" and own.reference_device != "cpu"
        place = Place(gpus, own.reference_memory, scratch)
        samples = tokens.samples(text, tokenizer)
        readings, theirs = run_transformers(directory, texts.texts, passes, place, samples, say)
        say("hashing the checkpoint's files")
        return Report(
            judgement=judge(written.runs, texts, readings),
            spelling=tokens.differences(samples, tokens.ours(tokenizer, samples), theirs),
            spelled=len(samples),
            foreseen=foreseen(written.runs, texts, readings),
            movement=moved(written.runs, texts, readings),
            exact=passes[0].dtype,
            served=written.dtype,
            quantization=settings.quantization,
            settings=_settings(config, settings),
            checkpoint=identity.checkpoint(directory),
            draft_model=_draft_model(settings),
            versions=identity.versions(),
            machine=[*dict.fromkeys(written.gpus), identity.processor()],
            path=written.path,
            seconds=time.monotonic() - started,
            drafts=sum((run.drafts for run in written.runs), Drafts()),
        )


def _own_prompts(own: argparse.Namespace, tokenizer: Tokenizer, config: EngineConfig, directory: Path) -> Any:
    if own.prompts is None:
        return ()
    window = config.max_model_len or ModelConfig.from_checkpoint(directory).n_positions
    return own_prompts(own.prompts, tokenizer, window - NEW_TOKENS)


def _passes(written: EngineAnswer, settings: Settings) -> list[Pass]:
    """How transformers reads: exactly, as it is served, and, where weights are rounded, without that."""
    exact = "float64" if written.dtype == "float32" else "float32"
    if settings.quantization == "none":
        return [Pass("exact", exact), Pass("served", written.dtype)]
    kind = settings.quantization
    native = written.path["path"] == "native"  # rounds what it multiplies weights with, always
    # some GPUs multiply fp8 by fp8 where a step is large: that rounding is allowed for, but not asked for
    yardstick = Rounding(kind, inputs=native or kind == "fp8")
    return [
        Pass("exact", exact, Rounding(kind, inputs=native), written.dtype),
        Pass("served", written.dtype, yardstick, written.dtype),
        Pass("unquantized", exact),
    ]


def _settings(config: EngineConfig, settings: Settings) -> dict[str, Any]:
    """The model's name, and what differs from the engine's own choice."""
    changed = config.model_dump(exclude={"model", "revision"}, exclude_defaults=True)
    if settings.draft_model is not None:
        changed["draft_model"] = _name(settings.draft_model)
    return {"model": settings.model_id, **changed}


def _draft_model(settings: Settings) -> dict[str, Any] | None:
    """Which one it is; None where there is none."""
    if settings.draft_model is None:
        return None
    return identity.checkpoint(resolve_checkpoint(settings.draft_model, settings.draft_revision))


def _name(model: str) -> str:
    """Not where it lies: that is its owner's business."""
    directory = directory_of(model)
    return model if directory is None else directory.resolve().name


def _check_report(path: Path) -> None:
    if path.suffix not in (".json", ".md"):
        raise ConfigError(f"--report {path}: its name has to end in .json or .md")
    if not path.parent.is_dir():
        raise ConfigError(f"--report {path}: there is no directory {path.parent}")


@contextlib.contextmanager
def _scratch(parent: Path | None) -> Iterator[Path]:
    try:
        directory = tempfile.TemporaryDirectory(prefix="starcoder-verify-", dir=parent, ignore_cleanup_errors=True)
    except OSError as error:
        raise ConfigError(f"--scratch {parent}: {error.strerror}") from error
    with directory as name:
        yield Path(name)


def _timed(console: Console, started: float) -> Say:
    return lambda text: console.say(f"{time.monotonic() - started:6.1f} s  {text}")
