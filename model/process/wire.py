"""What crosses the socket between an engine's process and its client: msgpack structs behind a length."""

from __future__ import annotations

import struct

import msgspec

from model.request import Output, Request
from model.statistics import EngineStats, GpuMemory, StepTiming

HEADER = struct.Struct("!I")


class Submit(msgspec.Struct, tag=True):
    requests: list[Request]


class Abort(msgspec.Struct, tag=True):
    request_ids: list[str]


class Ping(msgspec.Struct, tag=True):
    number: int


class Shutdown(msgspec.Struct, tag=True):
    pass


class Step(msgspec.Struct, tag=True):
    """What one step gave, or an empty list after commands that ran no step."""

    outputs: list[Output]
    stats: EngineStats
    timing: StepTiming | None = None


class Pong(msgspec.Struct, tag=True):
    """The engine loop and every rank answered."""

    number: int
    stats: EngineStats
    gpus: list[GpuMemory] = []


Command = Submit | Abort | Ping | Shutdown
Report = Step | Pong

_encoder = msgspec.msgpack.Encoder()
_commands: msgspec.msgpack.Decoder[Command] = msgspec.msgpack.Decoder(Command)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def frame(message: Command | Report) -> bytes:
    body = _encoder.encode(message)
    return HEADER.pack(len(body)) + body


def command(body: bytes) -> Command:
    return _commands.decode(body)


def report(body: bytes) -> Report:
    return _reports.decode(body)
