"""How much a draw varies."""

from __future__ import annotations

from deployments.api.parameters.parameter import Parameter

# Below this, logits divided by the temperature leave float32's range; there, sampling is greedy anyway.
_LEAST = 1e-4

TEMPERATURE: Parameter[float] = Parameter(
    "temperature",
    description="0 always takes the most likely token; higher values vary more.",
    ge=0,
    le=2,
    translate=lambda value, bounds: {"temperature": 0.0 if value < _LEAST else value},
)
