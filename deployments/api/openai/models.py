"""Which models are served: `GET /v1/models` and `GET /v1/models/{id}`, as OpenAI and vLLM have them."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from deployments.api.common.context import ApiContext
from deployments.api.common.examples import SERVED_MODEL
from deployments.api.common.paths import ANY_TEXT
from deployments.api.common.section import MODELS
from deployments.api.openai.schemas import ERROR_RESPONSES
from deployments.protocol import ModelInfo


class ModelCard(BaseModel):
    id: str = Field(description="What requests name in `model`.")
    object: Literal["model"] = Field(default="model", description="What this is.")
    created: int = Field(description="Unix seconds.")
    owned_by: str = Field(description="The part of a hub id before the slash.")
    max_model_len: int = Field(description="Longest prompt plus completion, in tokens.")


class ModelList(BaseModel):
    object: Literal["list"] = Field(default="list", description="What this is.")
    data: list[ModelCard] = Field(description="The models; this server has one.")


def to_card(model: ModelInfo) -> ModelCard:
    owner, slash, _ = model.id.partition("/")
    return ModelCard(
        id=model.id,
        created=model.created,
        owned_by=owner if slash and owner else "starcoder-serve",
        max_model_len=model.max_model_len,
    )


def create_router(api: ApiContext) -> APIRouter:
    router = APIRouter(tags=[MODELS.name], responses=ERROR_RESPONSES)

    @router.get("/v1/models", summary="List the served models", response_description="The models.")
    async def list_models() -> ModelList:
        return ModelList(data=[to_card(await api.model())])

    # A hub id holds a slash, and clients do not always escape it.
    @router.get(f"/v1/models/{{model_id:{ANY_TEXT}}}", summary="Describe one model", response_description="The model.")
    async def get_model(
        model_id: Annotated[str, Path(description="Id of the model, slashes and all.", examples=[SERVED_MODEL])],
    ) -> ModelCard:
        return to_card(await api.served_model(model_id))

    return router
