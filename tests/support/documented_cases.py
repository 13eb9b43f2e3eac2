"""What schemathesis makes of the app's own OpenAPI document, and of its thousands of cases those that a run sends."""

from __future__ import annotations

import random
from typing import Any

from schemathesis.checks import not_a_server_error
from schemathesis.generation.meta import TestPhase
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]

_ONE_OF = 4


class Cases:
    """Make it in a fixture: within a test of examples Hypothesis has set `random` to the same each time."""

    def __init__(self) -> None:
        self._chance = random.Random(random.getrandbits(64))  # of the seed that a run prints

    def send(self, case: Any, **options: Any) -> None:
        """Raises what schemathesis does for an answer that is not documented.

        Of what it lists of each field, most of which all dialects have, a run sends a quarter, and others the rest.
        """
        if case.meta.phase.name is not TestPhase.COVERAGE or self._chance.randrange(_ONE_OF) == 0:
            case.call_and_validate(checks=CHECKS, **options)
