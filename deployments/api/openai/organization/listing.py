"""Lists in pages: `after` names the last item that was seen, as OpenAI has it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Generic, Literal, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from deployments.errors import InvalidRequestError, shown

Item = TypeVar("Item")
Answer = TypeVar("Answer", bound=BaseModel)

After = Annotated[str | None, Query(alias="after", max_length=1024, description="Go on after the item with this id.")]
Limit = Annotated[int, Query(ge=1, le=100, description="Most items of a page.")]


class ListPage(BaseModel, Generic[Answer]):
    object: Literal["list"] = Field(default="list", description="What this is.")
    data: list[Answer] = Field(description="The items.")
    first_id: str | None = Field(description="Id of the first one.")
    last_id: str | None = Field(description="Id of the last one: the next page comes after it.")
    has_more: bool = Field(description="Whether there is a next page.")

    @classmethod
    def of(
        cls, page: tuple[list[Item], bool], answer: Callable[[Item], Answer], id_of: Callable[[Item], str]
    ) -> ListPage[Answer]:
        """From what `after` gives."""
        items, has_more = page
        ids = [id_of(item) for item in items]
        first_id, last_id = (ids[0], ids[-1]) if ids else (None, None)
        return cls(data=[answer(item) for item in items], first_id=first_id, last_id=last_id, has_more=has_more)


class Deleted(BaseModel):
    id: str = Field(description="What was deleted.")
    object: str = Field(description="What it was, with `.deleted`.")
    deleted: Literal[True] = Field(default=True, description="It is no more.")


def after(
    items: Sequence[Item],
    cursor: str | None,
    limit: int,
    id_of: Callable[[Item], str],
    shows: Callable[[Item], bool] = lambda item: True,
) -> tuple[list[Item], bool]:
    """A page, and whether there is more.

    items: in an order that none of them changes, ended ones too, so that a page's last item is found again whatever
    became of it: so each is listed once, while others come and go. shows: those that are listed.
    Raises InvalidRequestError for a cursor that is none of them.
    """
    start = 0
    if cursor is not None:
        start = next((i + 1 for i, item in enumerate(items) if id_of(item) == cursor), -1)
        if start < 0:
            raise InvalidRequestError(f"There is nothing here with the id {shown(cursor)}.", param="after")
    found = [item for item in items[start:] if shows(item)]
    return found[:limit], len(found) > limit
