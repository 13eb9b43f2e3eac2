"""What stands in the paths of resources."""

from __future__ import annotations

from typing import Annotated

from fastapi import Path

ProjectId = Annotated[str, Path(description="Id or name of the team.", examples=["search"])]
KeyId = Annotated[str, Path(description="Id of the key.", examples=["key_0197"])]
AccountId = Annotated[str, Path(description="Id of the service account, which is its key's.", examples=["key_0197"])]
PersonId = Annotated[str, Path(description="Who, as the identity provider has it.", examples=["ada@example.com"])]
RateLimitId = Annotated[str, Path(description="A team has one: `all`.", examples=["all"])]
