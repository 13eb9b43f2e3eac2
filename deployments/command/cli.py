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
  teams        make and change teams, their limits and budgets (starcoder teams --help)
  keys         make, list and revoke API keys (starcoder keys --help)
  members      who may do what in a team (starcoder members --help)
  usage        what was used by whom, and what it cost (starcoder usage --help)
  prices       what tokens cost (starcoder prices --help)
  audit        what was changed by whom (starcoder audit --help)
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


def teams(arguments: Sequence[str]) -> int:
    from deployments.command.teams.teams import run

    return run(arguments)


def keys(arguments: Sequence[str]) -> int:
    from deployments.command.teams.keys import run

    return run(arguments)


def members(arguments: Sequence[str]) -> int:
    from deployments.command.teams.members import run

    return run(arguments)


def usage(arguments: Sequence[str]) -> int:
    from deployments.command.teams.usage import run

    return run(arguments)


def prices(arguments: Sequence[str]) -> int:
    from deployments.command.teams.prices import run

    return run(arguments)


def audit(arguments: Sequence[str]) -> int:
    from deployments.command.teams.audit import run

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
    "teams": teams,
    "keys": keys,
    "members": members,
    "usage": usage,
    "prices": prices,
    "audit": audit,
    "environment": environment,
    "download": download,
    "version": version,
}

if __name__ == "__main__":
    sys.exit(main())
