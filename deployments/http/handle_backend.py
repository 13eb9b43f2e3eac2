"""The ingress's `Backend` over a Serve handle: one call of a replica each, errors unwrapped."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING, Any

from deployments.errors import ServeError, unwrap
from deployments.protocol import Delta, GenerationRequest, HealthReport, ModelInfo

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle, DeploymentResponse, DeploymentResponseGenerator


class HandleBackend:
    """Implements `deployments.protocol.Backend`."""

    def __init__(self, handle: DeploymentHandle) -> None:
        self._handle = handle
        self._streaming = handle.options(stream=True)

    async def stream(self, request: GenerationRequest) -> AsyncGenerator[list[Delta], None]:
        response = self._streaming.stream.remote(request)
        with _answering(response):
            async for deltas in response:
                yield _raised(deltas)

    async def generate(self, request: GenerationRequest) -> list[Delta]:
        deltas: list[Delta] = await self._call("generate", request)
        return deltas

    async def health(self) -> HealthReport:
        report: HealthReport = await self._call("health")
        return report

    async def info(self) -> ModelInfo:
        info: ModelInfo = await self._call("info")
        return info

    async def _call(self, method: str, *arguments: Any) -> Any:
        response = getattr(self._handle, method).remote(*arguments)
        with _answering(response):
            return _raised(await response)


@contextlib.contextmanager
def _answering(response: DeploymentResponse[Any] | DeploymentResponseGenerator[Any]) -> Iterator[None]:
    """Errors come out unwrapped; the replica is told where nobody waits any more."""
    try:
        yield
    except Exception as error:
        raise unwrap(error) from error
    except BaseException:
        response.cancel()
        raise


def _raised(result: Any) -> Any:
    """A replica hands its errors over as values."""
    if isinstance(result, ServeError):
        raise result
    return result
