"""Settings of teams, keys and the ledger: `--teams.database`, `STARCODER_TEAMS__DATABASE`, `teams:` in the file."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


def data_directory() -> Path:
    """Where this user's data lie (XDG Base Directory Specification)."""
    home = os.environ.get("XDG_DATA_HOME") or "~/.local/share"
    return Path(home).expanduser() / "starcoder-serve"


def _default_database() -> str:
    return f"sqlite+aiosqlite:///{data_directory() / 'teams.sqlite'}"


class TeamsSettings(BaseModel):
    """Nobody is asked for a key until the first one is made, unless `required`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    database: str = Field(
        default_factory=_default_database,
        description="Where teams, keys and the ledger are: sqlite+aiosqlite:///PATH for one machine, or "
        "postgresql+asyncpg://USER:PASSWORD@HOST/NAME. A file of this user's if not given.",
    )
    required: bool = Field(default=False, description="Nobody gets in without a key, even while there is none.")
    pepper_file: Path | None = Field(
        default=None,
        description="File with the secret that keys are hashed with, the same on every node; made on first use beside "
        "an SQLite database if not given.",
    )
    journal_directory: Path | None = Field(
        default=None,
        description="Directory, one a node and kept over restarts, for usage that is not in the database yet; beside "
        "an SQLite database if not given.",
    )
    journal_bytes: int = Field(
        default=1 << 30,
        gt=0,
        description="Largest journal of one HTTP front process: with the database away for so long that it is full "
        "(a request takes some 500 bytes), what would have to be booked is refused with 503.",
    )
    refresh_s: float = Field(default=2.0, gt=0, description="A new, changed or revoked key takes effect within this.")
    max_staleness_s: float = Field(
        default=3600.0, ge=0, description="With the database away, keys that are known go on for so long."
    )
    input_price: Decimal = Field(
        default=Decimal("0.000315"), ge=0, description="USD for 1,000 prompt tokens, where the model has no own price."
    )
    cached_price: Decimal | None = Field(
        default=None, ge=0, description="USD for 1,000 prompt tokens found in the cache; as input_price if not given."
    )
    output_price: Decimal = Field(
        default=Decimal("0.000315"),
        ge=0,
        description="USD for 1,000 generated tokens, likewise.",
    )
