"""What the server answers once it is there, and what `starcoder serve` says of it then."""

from __future__ import annotations

import json
from typing import Any, TypedDict

from deployments.settings import Settings
from monitoring.front import Front, reachable

_PRODUCTS = {"amx": "AMX", "bf16": "AVX512-BF16", "int16": "AVX512-VNNI"}
_FORWARD = {"native": "in C", "triton": "by Triton kernels", "torch": "by PyTorch's operations"}

_LOOPBACK = ("127.0.0.1", "::1", "localhost")


class Forward(TypedDict):
    """What computes steps, and why, as `/version` says it."""

    path: str
    reason: str | None
    products: str | None


def front(settings: Settings) -> Front:
    """Where clients of this machine ask."""
    return Front(settings.host, settings.port, settings.certificate is not None, settings.model_id)


def answer(settings: Settings, path: str) -> bytes | None:
    """The body that a GET brings; None where it is not answered, or not with 200."""
    found = front(settings).get(path)
    return found[1] if found is not None and found[0] == 200 else None


def forward(settings: Settings) -> Forward | None:
    """None where the server does not say."""
    body = answer(settings, "/version")
    found: Forward | None = json.loads(body)["forward"] if body else None
    return found


def said_of(forward: Forward | None) -> dict[str, Any]:
    """Fields of a line of the log."""
    if forward is None:
        return {}
    return {"forward": forward["path"], "forward_reason": forward["reason"], "forward_products": forward["products"]}


def ready_message(settings: Settings, seconds: float, forward: Forward | None) -> str:
    host = reachable(settings.host)
    scheme = "http" if settings.certificate is None else "https"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.port}"
    # On this machine the certificate's names may not lead here.
    curl = "curl --insecure" if scheme == "https" and host in _LOOPBACK else "curl"
    by = ""
    if forward is not None:
        reason = f" ({forward['reason']})" if forward["reason"] else ""
        products = f" by {_PRODUCTS[forward['products']]}" if forward["products"] else ""
        by = f", with its forward pass {_FORWARD[forward['path']]}{products}{reason}"
    return (
        f"Ready after {seconds:.1f} s: {settings.model_id} at {url} (in a browser, too; the API: {url}/docs){by}. "
        "Try:\n"
        f"  {curl} {url}/v1/completions -H 'Content-Type: application/json' \\\n"
        f'    -d \'{{"model": "{settings.model_id}", "prompt": "import logging\\n\\nlogger = logging.", '
        f'"suffix": "\\n", "max_tokens": 16, "temperature": 0, "completion_mode": "auto"}}\''
    )
