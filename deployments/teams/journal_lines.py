"""What stands in a journal's file: lines of JSON, each behind a checksum, by which half a line is told from a whole."""

from __future__ import annotations

import zlib
from typing import Literal

import msgspec

from deployments.teams.records import LedgerEntry

Kind = Literal["open", "note", "close", "withdraw"]

_CHECKSUM_BYTES = 8


class Change(msgspec.Struct, frozen=True, array_like=True, tag="row"):
    """What becomes of one row. note: a newer word on one that stays open. withdraw: there is nothing to book.

    closed_at: in Unix seconds, where it is closed.
    """

    kind: Kind
    entry: LedgerEntry
    closed_at: float = 0.0


class Booked(msgspec.Struct, frozen=True, array_like=True, tag="booked"):
    """All that is closed before this place in the file is in the database."""

    up_to: int


Record = Change | Booked

_to_json = msgspec.json.Encoder().encode
_from_json: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def to_line(record: Record) -> bytes:
    written = _to_json(record)
    return b"%08x%b\n" % (zlib.crc32(written), written)


def from_line(line: bytes) -> Record | None:
    """None where it is damaged, or nothing that this version would have written."""
    checksum, written = line[:_CHECKSUM_BYTES], line[_CHECKSUM_BYTES:-1]
    if line[-1:] != b"\n" or checksum != b"%08x" % zlib.crc32(written):
        return None
    try:
        return _from_json.decode(written)
    except msgspec.DecodeError:
        return None
