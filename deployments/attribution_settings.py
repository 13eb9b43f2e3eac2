"""Settings of attribution: `--attribution.index`, `STARCODER_ATTRIBUTION__INDEX`, `attribution:` in the file."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator

from deployments.certificate import AbsolutePath


class AttributionSettings(BaseModel):
    """Off unless there is an index."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    index: AbsolutePath | None = Field(
        default=None,
        description="Directory that `starcoder attribution build` made, on each node: answers that repeat code of it "
        "say whose it is.",
    )
    block: bool = Field(
        default=False,
        description="End a completion before it has repeated 150 characters of the index, white space not counted.",
    )

    @model_validator(mode="after")
    def _whole(self) -> AttributionSettings:
        if self.block and self.index is None:
            raise ValueError("block needs an index")
        return self
