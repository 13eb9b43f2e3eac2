"""How many variants of Triton's kernels this process has compiled, or read from Triton's cache.

Either holds up whoever waits for the step, by milliseconds or by seconds: all of it belongs before the first request.
"""

from __future__ import annotations

from typing import Any

import triton


class _Counting:
    """Triton calls it after each; whoever listened before still hears of it."""

    def __init__(self, before: Any) -> None:
        self._before = before
        self.count = 0

    def __call__(self, **about: Any) -> bool | None:
        self.count += 1
        return self._before(**about) if self._before is not None else None


def watch() -> None:
    """Count from now on. To be called again does nothing."""
    if not isinstance(triton.knobs.runtime.jit_post_compile_hook, _Counting):
        triton.knobs.runtime.jit_post_compile_hook = _Counting(triton.knobs.runtime.jit_post_compile_hook)


def count() -> int:
    """Since `watch` was called first; 0 before."""
    hook = triton.knobs.runtime.jit_post_compile_hook
    return hook.count if isinstance(hook, _Counting) else 0
