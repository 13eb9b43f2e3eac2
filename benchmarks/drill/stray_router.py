"""A router that can be broken: while a file is there, requests go to engines that do not hold their prefix.

Everything around the choice is the product's: what it remembers, and what it tells of what it expects.
"""

from __future__ import annotations

from ray.serve.request_router import PendingRequest, RunningReplica

from benchmarks.drill import switch
from deployments.cluster.routing import PrefixRouter
from deployments.protocol import GenerationRequest


class StrayRouter(PrefixRouter):
    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        ranks = await super().choose_replicas(candidate_replicas, pending_request)
        return ranks[::-1] if _generates(pending_request) and switch.is_on("router") else ranks


def _generates(pending_request: PendingRequest | None) -> bool:
    """It is a request for text; calls of a replica by its name, and for its health, are left alone."""
    arguments = pending_request.args if pending_request is not None else ()
    return any(isinstance(argument, GenerationRequest) for argument in arguments)
