"""The `starcoder` command."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from deployments.command.declaration import Command, CommandModule
from deployments.spelling import did_you_mean
from model.config import ConfigError

INTERRUPTED = 128 + 2
"""What a shell makes of a command that SIGINT has ended."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit code. 2: the command line or the settings are wrong."""
    command, *rest = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    command = {"-h": "help", "--help": "help", "--version": "version"}.get(command, command)
    if command != "help" and command not in COMMANDS:
        wrong = f"there is no command {command!r}{did_you_mean(command, COMMANDS)}"
        print(f"starcoder: {wrong}\n`starcoder --help` says what there is.", file=sys.stderr)
        return 2
    try:
        code = _help() if command == "help" else COMMANDS[command].module().run(rest)
        sys.stdout.flush()
    except ConfigError as error:
        print(f"starcoder {command}: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # Whoever read has seen enough. What is left is for nobody, at the interpreter's end, too.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except RuntimeError as error:
        print(f"starcoder {command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def _help() -> int:
    print("usage: starcoder COMMAND [options]")
    width = max(map(len, COMMANDS))
    for subject, commands in SUBJECTS.items():
        print(f"\n{subject}:")
        for name, command in commands.items():
            print(f"  {name:{width}}  {command.help}")
    print("\n`starcoder COMMAND --help` says more of each.")
    return 0


def _serve() -> CommandModule:
    from deployments.command import serve

    return serve


def _status() -> CommandModule:
    from deployments.command import status

    return status


def _complete() -> CommandModule:
    from deployments.command import complete

    return complete


def _plan() -> CommandModule:
    from deployments.command import plan

    return plan


def _download() -> CommandModule:
    from deployments.command import download

    return download


def _verify() -> CommandModule:
    from deployments.command.verify import command

    return command


def _environment() -> CommandModule:
    from deployments.command import front

    return front


def _attribution() -> CommandModule:
    from deployments.command import attribution

    return attribution


def _teams() -> CommandModule:
    from deployments.command.teams import teams

    return teams


def _keys() -> CommandModule:
    from deployments.command.teams import keys

    return keys


def _members() -> CommandModule:
    from deployments.command.teams import members

    return members


def _usage() -> CommandModule:
    from deployments.command.teams import usage

    return usage


def _prices() -> CommandModule:
    from deployments.command.teams import prices

    return prices


def _audit() -> CommandModule:
    from deployments.command.teams import audit

    return audit


def _completion() -> CommandModule:
    from deployments.command.completion import Completion

    return Completion(COMMANDS)


def _version() -> CommandModule:
    from deployments.command import version

    return version


SUBJECTS: dict[str, dict[str, Command]] = {
    "a server": {
        "serve": Command(_serve, "serve a model behind an OpenAI-compatible API"),
        "status": Command(_status, "show how a running server is: engines, queue, whether it drains"),
        "plan": Command(_plan, "compute what fits a GPU's memory"),
        "download": Command(_download, "fetch a checkpoint for servers that run offline"),
        "verify": Command(_verify, "compare the engine with transformers, on your weights and hardware"),
        "environment": Command(_environment, "print what Ray's processes need in a cluster of your own"),
    },
    "code": {
        "complete": Command(_complete, "complete code at a place in a file, with a running server"),
        "attribution": Command(_attribution, "make indexes of code, by which answers say whose code they repeat"),
    },
    "teams, keys and money": {
        "teams": Command(_teams, "make and change teams, their limits and budgets"),
        "keys": Command(_keys, "make, list and revoke API keys"),
        "members": Command(_members, "say who may do what in a team"),
        "usage": Command(_usage, "show what was used by whom, and what it cost"),
        "prices": Command(_prices, "say what tokens cost"),
        "audit": Command(_audit, "show what was changed by whom"),
    },
    "this command": {
        "completion": Command(_completion, "print a script that completes its command lines, for bash, zsh or fish"),
        "version": Command(_version, "print the version"),
    },
}

COMMANDS = {name: command for commands in SUBJECTS.values() for name, command in commands.items()}

if __name__ == "__main__":
    sys.exit(main())
