"""What is run, and how much it may take."""

from __future__ import annotations

from dataclasses import dataclass, field

MIB = 2**20


@dataclass(frozen=True)
class Limits:
    """seconds: on the wall, and of CPU. memory_bytes: of one process, of its address space or, since runtimes reserve
    more of that than they use, of its data alone. processes: threads count. scratch_bytes: of all files together.
    """

    seconds: float = 3.0
    memory_bytes: int = 1024 * MIB
    whole_address_space: bool = True
    processes: int = 8
    scratch_bytes: int = 16 * MIB


@dataclass(frozen=True)
class Command:
    argv: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Program:
    """Python, run to its end; or, with commands, a file that these compile and run, which all have to exit with 0.

    packages: whether it may import what is installed, not the standard library alone.
    """

    text: str
    limits: Limits = field(default_factory=Limits)
    packages: bool = False
    file: str = ""
    commands: tuple[Command, ...] = ()
