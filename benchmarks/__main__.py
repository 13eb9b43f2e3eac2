"""`python -m benchmarks COMMAND`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from benchmarks.plots import PlotError, plot, pyplot
from benchmarks.report import Result, add_output_arguments
from model.config import ConfigError

COMMANDS = {
    "latency": ("benchmarks.engine.latency", "the engine in process, one batch at a time"),
    "throughput": ("benchmarks.engine.throughput", "the engine in process, many requests at once"),
    "serve": ("benchmarks.server.serve", "load on a running server, requests arriving at random"),
    "gaps": ("benchmarks.server.gaps", "everyday gaps in code: how many a running server fills as expected"),
    "keystrokes": ("benchmarks.server.keystrokes", "people who type, on a running server"),
    "editors": ("benchmarks.server.editors", "how many people who type one server answers in time"),
    "flood": ("benchmarks.server.flood", "how long one team waits while another one floods the server"),
    "directory": ("benchmarks.server.directory", "what thousands of teams and keys cost an ingress"),
    "soak": ("benchmarks.server.soak", "hostile clients on a running server, and whether others wait for them"),
    "drill": ("benchmarks.drill.command", "twelve failures of a real server, and the panels and alerts that show each"),
    "stack": ("benchmarks.stack.command", "everything around the engine, which answers from a table"),
    "metrics-overhead": ("benchmarks.engine.metrics_overhead", "what recording metrics costs, as a share of a step"),
    "quality": (
        "benchmarks.quality.command",
        "benchmarks of code, published ones or your own, asked of a server",
    ),
    "stop-rules": (
        "benchmarks.quality.stop_rules",
        "completions of held-out code: what each stop rule saves and spoils",
    ),
    "profile": ("benchmarks.engine.step_profile", "where each millisecond of a step goes"),
    "speculation": (
        "benchmarks.engine.speculation",
        "drafts looked up in the prompt: what they gain and what they cost",
    ),
    "start": ("benchmarks.engine.start", "a cold engine, from files on disk to its first token"),
    "quantization": ("benchmarks.engine.quantization", "what 8 bits cost in quality, on real code"),
    "linear": ("benchmarks.engine.linear", "single products: 8-bit weights beside plain ones"),
    "collectives": ("benchmarks.engine.collectives", "what ranks on one machine take to add up what each has"),
    "scaling": ("benchmarks.scaling.command", "how many engines the scaling policy keeps, in simulated time"),
    "fairness": ("benchmarks.fairness.command", "what each of several teams gets of one engine, in simulated time"),
    "gpu": ("benchmarks.engine.gpu.command", "everything that a GPU has to show, in one command"),
    "peers": ("benchmarks.peers.command", "other engines beside ours, with the same checkpoint and prompts"),
}


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Shows defaults where there are any."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, [], False) else super()._get_help_string(action)


def build_parser(only: str | None = None) -> argparse.ArgumentParser:
    """only: the command whose options are wanted. What others import, a bare machine may not have."""
    parser = argparse.ArgumentParser("python -m benchmarks", description="Measure StarCoder Serve.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (module, summary) in COMMANDS.items():
        command = commands.add_parser(name, help=summary, description=summary, formatter_class=HelpFormatter)
        if only in COMMANDS and name != only:
            continue
        home = import_module(module)
        add_output_arguments(command, getattr(home, "PICTURE", ""))
        home.add_arguments(command)
        command.set_defaults(run=home.run)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, write; the exit code. 2: the command line is wrong, 1: the measurement failed."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    options = build_parser(given[0] if given else None).parse_args(given)
    try:
        if options.plot is not None:
            pyplot()  # before minutes of measuring, not after
        result: Result = options.run(options)
        print(result.text())
        if options.output is not None:
            result.write(options.output)
        if options.plot is not None:
            plot(result, options.plot)
    except (ConfigError, ValueError) as error:
        print(f"benchmarks {options.command}: {error}", file=sys.stderr)
        return 2
    except (PlotError, RuntimeError, OSError) as error:
        print(f"benchmarks {options.command}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
