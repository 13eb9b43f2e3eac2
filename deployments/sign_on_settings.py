"""What the settings of sign-on mean: addresses of the web, and whose groups are in which team."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal, cast, get_args
from urllib.parse import urlsplit

TeamRole = Literal["owner", "member", "viewer"]
"""The most first; see `deployments.teams.records.Role`."""

_ENTRY = re.compile(r"\s*([^\s,].*?)=([a-z0-9._-]{1,64}):(\w+)\s*(?:,|\Z)", re.ASCII)


@dataclass(frozen=True)
class GroupRole:
    """People of `group`, at the identity provider, are in the team of this name as `role`."""

    group: str
    team: str
    role: TeamRole


def group_roles(text: str) -> tuple[GroupRole, ...]:
    """From `group=team:role, ...`; a group may have commas and `=` in its name, as those of LDAP do.

    Raises ValueError.
    """
    found, at = [], 0
    while at < len(text.rstrip()):
        entry = _ENTRY.match(text, at)
        if entry is None:
            raise ValueError(f"{text[at:]!r} is not group=team:role, ...")
        group, team, role = entry.groups()
        if role not in get_args(TeamRole):
            raise ValueError(f"{role!r} is none of {', '.join(get_args(TeamRole))}")
        found.append(GroupRole(group, team, cast(TeamRole, role)))
        at = entry.end()
    return tuple(found)


def web_address(value: str) -> str:
    """The address, which is https unless it is of this machine. Raises ValueError."""
    try:
        url = urlsplit(value)
        host, _ = url.hostname, url.port
    except ValueError:
        raise ValueError(f"{value!r} is no address") from None
    if url.scheme not in ("http", "https") or not host or url.query or url.fragment or url.username:
        raise ValueError(f"{value!r} is no address such as https://login.example.com")
    if url.scheme == "http" and not _is_here(host):
        raise ValueError(f"{value!r} must be https: what is said there would be read on the way")
    return value


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
