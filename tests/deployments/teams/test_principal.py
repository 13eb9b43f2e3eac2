"""What is known of whoever asks."""

from __future__ import annotations

from typing import Any

import pytest

from deployments.teams.principal import LOCAL, Principal, principal_of, set_principal
from deployments.teams.records import ServiceClass, Team
from tests.support.stores import a_key


def test_a_request_has_the_principal_that_the_door_found() -> None:
    scope: dict[str, Any] = {"type": "http"}
    assert principal_of(scope) is None
    set_principal(scope, LOCAL)
    assert principal_of(scope) is LOCAL
    assert principal_of({"type": "http", **dict.fromkeys(scope.keys() - {"type"}, "made up")}) is None


def test_whose_name_the_audit_log_has() -> None:
    key = a_key(None)
    assert Principal(team=None, key=key, user="ada").actor == f"key:{key.id}"
    assert Principal(team=None, user="ada").actor == "user:ada"
    assert (LOCAL.actor, LOCAL.is_admin) == ("local", True)
    assert not Principal(team=None, scopes=("generate", "usage", "metrics")).is_admin


@pytest.mark.parametrize(("served", "number"), [("interactive", 0), ("standard", 1), ("batch", 2)])
def test_who_is_served_first(served: ServiceClass, number: int) -> None:
    team = Team(id="t", name="t", created_at=0.0, service_class=served)
    assert Principal(team=team).class_number == number
    assert LOCAL.class_number == 1
