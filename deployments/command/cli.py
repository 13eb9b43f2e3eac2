"""The `starcoder` command."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from model.config import ConfigError

USAGE = """\
usage: starcoder COMMAND [options]

  serve        serve a model behind an OpenAI-compatible API (starcoder serve --help)
  complete     complete code at a place in a file, with a running server (starcoder complete --help)
  plan         compute what fits a GPU's memory (starcoder plan --help)
  environment  print what Ray's processes need in a cluster of your own (starcoder environment --help)
  download     fetch a checkpoint for servers that run offline (starcoder download --help)
  version      print the version
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. 2: the command line or the settings are wrong."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if command in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if command not in COMMANDS:
        print(f"starcoder: unknown command {command!r}\n\n{USAGE}", end="", file=sys.stderr)
        return 2
    try:
        return COMMANDS[command](rest)
    except ConfigError as error:
        print(f"starcoder {command}: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(f"starcoder {command}: {error}", file=sys.stderr)
        return 1


def serve(arguments: Sequence[str]) -> int:
    from deployments.command.local import serve_forever
    from deployments.settings import Settings

    return serve_forever(Settings.from_command_line(arguments))


def complete(arguments: Sequence[str]) -> int:
    from deployments.command.complete import run

    return run(arguments)


def plan(arguments: Sequence[str]) -> int:
    from deployments.command.plan import run

    return run(arguments)


def download(arguments: Sequence[str]) -> int:
    from deployments.command.download import run

    return run(arguments)


def environment(arguments: Sequence[str]) -> int:
    from deployments.command.front import run

    return run(arguments)


def version(arguments: Sequence[str]) -> int:
    from importlib.metadata import version as installed

    print(installed("starcoder-serve"))
    return 0


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "serve": serve,
    "complete": complete,
    "plan": plan,
    "environment": environment,
    "download": download,
    "version": version,
}

if __name__ == "__main__":
    sys.exit(main())
