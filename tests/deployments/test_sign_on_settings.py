"""What is said of people who sign in: in which teams their groups are, and at which addresses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from deployments.attribution_settings import AttributionSettings
from deployments.sign_on_settings import GroupRole, group_roles, web_address
from deployments.team_settings import TeamsSettings


def test_groups_in_teams() -> None:
    assert group_roles("devs=search:member, cn=leads,ou=groups,dc=x=search:owner,all staff=a-d.s_1:viewer ,") == (
        GroupRole("devs", "search", "member"),
        GroupRole("cn=leads,ou=groups,dc=x", "search", "owner"),
        GroupRole("all staff", "a-d.s_1", "viewer"),
    )
    assert group_roles("") == group_roles("  ") == ()
    assert group_roles(f"g={'a' * 64}:member")[0].team == "a" * 64


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        *(("devs", "'devs' is not group"), ("devs=search", "'devs=search' is not"), ("=search:member", "is not")),
        *(
            ("a=b:member,,c=d:member", "',c=d:member' is not"),
            ("a=B:member", "is not"),
            (f"g={'a' * 65}:owner", "is not"),
        ),
        ("devs=search:king", "'king' is none of owner, member, viewer"),
    ],
)
def test_what_says_of_no_group_where_it_belongs(wrong: str, words: str) -> None:
    with pytest.raises(ValueError, match="is no") as refused:
        group_roles(wrong)
    assert words in str(refused.value)


@pytest.mark.parametrize(
    "address",
    [
        *("https://login.example.com", "https://login.example.com:8443/realms/x", "http://127.0.0.1:8080/realm"),
        *("http://localhost", "http://[::1]:9", "http://127.9.9.9"),
    ],
)
def test_addresses_of_the_web(address: str) -> None:
    assert web_address(address) == address


@pytest.mark.parametrize(
    ("address", "words"),
    [
        *(("http://login.example.com", "must be https"), ("http://10.0.0.1", "must be https")),
        *(("login.example.com", "such as https"), ("https://", "such as https"), ("https://a?b=c", "such as https")),
        *(("https://a#b", "such as https"), ("https://me@a", "such as https"), ("ftp://a", "such as https")),
        *(("https://a:x", "is no address"), ("https://[::1", "is no address")),
    ],
)
def test_what_is_no_address_or_would_be_read_on_the_way(address: str, words: str) -> None:
    with pytest.raises(ValueError, match=r"address|https") as refused:
        web_address(address)
    assert str(refused.value).startswith(repr(address))
    assert words in str(refused.value)


SIGN_ON = {"public_url": "https://code.example.com", "oidc_issuer": "https://id.example.com", "oidc_client_id": "c"}


@pytest.mark.parametrize(
    ("given", "closed"),
    [
        ({}, False),
        ({"required": True}, True),
        ({"required_terms": "1"}, True),
        (SIGN_ON, True),
        ({**SIGN_ON, "oidc_admin_group": "admins"}, True),
        ({"public_url": "https://code.example.com"}, False),
    ],
)
def test_who_gets_in_without_a_key(given: dict[str, Any], closed: bool) -> None:
    settings = TeamsSettings(**given)
    assert (settings.closed, settings.sign_on) == (closed, "oidc_issuer" in given)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"public_url": None}, "oidc_issuer needs oidc_client_id and public_url"),
        ({"oidc_client_id": None}, "oidc_issuer needs oidc_client_id and public_url"),
        ({"oidc_issuer": None}, "worth nothing without oidc_issuer"),
        ({"oidc_issuer": None, "oidc_client_id": None, "oidc_admin_group": "a"}, "worth nothing without oidc_issuer"),
        ({"public_url": "code.example.com"}, "public_url"),
        ({"oidc_issuer": "id"}, "oidc_issuer"),
        ({"oidc_team_groups": "nonsense"}, "oidc_team_groups"),
    ],
)
def test_sign_on_is_asked_for_as_a_whole(changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        TeamsSettings(**{**SIGN_ON, **changed})


def test_to_block_there_has_to_be_an_index(tmp_path: Path) -> None:
    assert AttributionSettings(block=True, index=tmp_path).block
    assert not AttributionSettings().block
    with pytest.raises(ValidationError, match="block needs an index"):
        AttributionSettings(block=True)
