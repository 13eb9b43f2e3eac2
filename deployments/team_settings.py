"""Settings of teams, keys and the ledger: `--teams.database`, `STARCODER_TEAMS__DATABASE`, `teams:` in the file."""

from __future__ import annotations

import os
from decimal import Decimal
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from deployments.sign_on_settings import GroupRole, group_roles, web_address
from deployments.sizes import ByteCount


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
    journal_bytes: ByteCount = Field(
        default=1 << 30,
        gt=0,
        description="Largest journal of one HTTP front process: with the database away for so long that it is full "
        "(a request takes some 1,000 bytes), what would have to be booked is refused with 503.",
    )
    interactive_deadline_s: float = Field(
        default=10.0,
        ge=0,
        allow_inf_nan=False,
        description="A request of a team of the class interactive that would wait longer than this for its first token "
        "is refused at once: nobody looks at a suggestion that late. 0: it waits.",
    )
    required_terms: str | None = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="Version of the use restrictions that a team must have accepted (`starcoder teams accept-terms`) "
        "before it gets completions; nobody gets in without a key then. Nothing has to be accepted if not given.",
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
    public_url: str | None = Field(
        default=None,
        description="By which browsers reach this server, such as https://code.example.com; needed for sign-on.",
    )
    oidc_issuer: str | None = Field(
        default=None,
        description="OpenID Connect provider that people sign in with, exactly as it calls itself; with one, nobody "
        "gets in without a key or a session.",
    )
    oidc_client_id: str | None = Field(default=None, description="What the provider calls this server.")
    oidc_client_secret_file: Path | None = Field(
        default=None, description="File with the client's secret; a client without one proves itself by PKCE alone."
    )
    oidc_scopes: str = Field(
        default="openid email profile", description="Asked of the provider; some want one more to tell groups."
    )
    oidc_groups_claim: str = Field(default="groups", description="Where the provider tells a person's groups.")
    oidc_admin_group: str | None = Field(default=None, description="Its people are administrators.")
    oidc_team_groups: str = Field(
        default="",
        description="Whose people are in which team: group=team:role, separated by commas; role is owner, member or "
        "viewer. Teams that are not named keep the members that were put into them.",
    )
    session_hours: float = Field(default=12.0, gt=0, description="After so long people have to sign in again.")

    @property
    def sign_on(self) -> bool:
        return self.oidc_issuer is not None

    @property
    def closed(self) -> bool:
        """Whether nobody gets in even while there is no key."""
        return self.required or self.sign_on or self.required_terms is not None

    @property
    def group_roles(self) -> tuple[GroupRole, ...]:
        return group_roles(self.oidc_team_groups)

    @field_validator("oidc_team_groups")
    @classmethod
    def _readable(cls, value: str) -> str:
        group_roles(value)
        return value

    @field_validator("public_url", "oidc_issuer")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        return None if value is None else web_address(value)

    @model_validator(mode="after")
    def _whole(self) -> TeamsSettings:
        if self.sign_on and (self.oidc_client_id is None or self.public_url is None):
            raise ValueError("oidc_issuer needs oidc_client_id and public_url")
        if self.oidc_issuer is None and (self.oidc_client_id is not None or self.oidc_admin_group is not None):
            raise ValueError("oidc_client_id and oidc_admin_group are worth nothing without oidc_issuer")
        return self
