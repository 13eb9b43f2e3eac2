"""What every dialect has at hand, and how a dialect is written.

A dialect is one module below `deployments.api`: pydantic schemas, a function from the schema to a `GenerationRequest`,
functions from deltas to the dialect's answer, `create_router(api: ApiContext) -> APIRouter`, and a `DIALECT`.
`deployments.ingress` mounts every module that has `create_router`; CONTRIBUTING.md has an example.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from deployments.errors import InvalidRequestError, ModelNotFoundError, shown
from deployments.http.people import People
from deployments.http.request_record import current
from deployments.limits import ApiLimits
from deployments.protocol import Backend, ModelInfo
from deployments.teams.records import Accepted
from model.text.fim import FimMode, FimOrder
from model.text.prompts import Infill, Plain

if TYPE_CHECKING:
    from model.text.context import RepositoryContext
    from model.text.tokenizer import Tokenizer


@dataclass
class ApiContext:
    """backend: runs requests; tokenizer: of the served model; limits: of one request.

    metrics_directory: where the node's processes share their metrics.
    model_card: what the checkpoint says of itself, in Markdown; None: nothing.
    accepted: told of completions that somebody took; must not wait.
    known_model: what the backend said of its model, once it has.
    people: who has signed in; None: there is no sign-on.
    """

    backend: Backend
    tokenizer: Tokenizer
    limits: ApiLimits = field(default_factory=ApiLimits)
    metrics_directory: Path | None = None
    model_card: str | None = None
    accepted: Callable[[Accepted], None] | None = None
    known_model: ModelInfo | None = None
    people: People | None = None

    async def model(self) -> ModelInfo:
        """The served model; asked of the backend once, then remembered (it cannot change while this app lives)."""
        if self.known_model is None:
            # Each for itself: where no engine answers, one behind the other would wait for the sum of their times.
            self.known_model = await self.backend.info()
        if (record := current()) is not None:
            record.model = self.known_model.id
        return self.known_model

    async def served_model(self, name: str | None) -> ModelInfo:
        """The model a request names, or the served one where it names none; raise ModelNotFoundError for others."""
        model = await self.model()
        if name is not None and name != model.id:
            raise ModelNotFoundError(
                f"The model {shown(name)} is not served here; this server has {model.id!r}.", param="model"
            )
        return model

    def check_fan_out(self, prompts: int, best_of: int) -> None:
        """Raise InvalidRequestError where one request asks for too many completions."""
        if prompts * best_of > self.limits.max_fan_out:
            raise InvalidRequestError(
                f"{prompts} prompts with {best_of} completions each are {prompts * best_of} completions; "
                f"one request may ask for {self.limits.max_fan_out}.",
                code="too_many_completions",
            )

    def gap(
        self, suffix: str, context: RepositoryContext | None = None, asked: FimMode | Literal["auto"] = "auto"
    ) -> Infill | Plain:
        """What the text before a cursor stands for, with `suffix` behind it, which may be empty.

        A model that cannot fill gaps goes on with the text, where nothing is behind it.
        """
        if self.tokenizer.fim is None and asked == "auto" and not suffix:
            return Plain(context)
        return Infill(self.fim_order(asked).mode, suffix, context)

    def fim_order(self, asked: FimMode | Literal["auto"] = "auto") -> FimOrder:
        """What is asked, else what is set, else what the checkpoint says, else what its family was trained on."""
        if asked != "auto":
            return FimOrder(asked, "request")
        if self.limits.default_fim_mode != "auto":
            return FimOrder(self.limits.default_fim_mode, "setting")
        return self.tokenizer.fim_order
