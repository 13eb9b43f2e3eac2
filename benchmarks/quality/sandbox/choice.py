"""Which sandbox this machine has. None is no choice: generated code runs in one, or does not run."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.quality.sandbox import bubblewrap, landlock
from benchmarks.quality.sandbox.judge import Sandbox, SandboxError, judge
from benchmarks.quality.sandbox.program import Limits, Program

FINDERS: dict[str, Callable[[], Sandbox | None]] = {"bubblewrap": bubblewrap.find, "sandlock": landlock.find}
"""By name, the better one first."""

HARMLESS = Program("import os\nassert os.getuid() != 0\n", Limits(seconds=30))


def choose(name: str | None = None) -> Sandbox:
    """The first that runs a harmless program here, or the one named. Raises SandboxError with what each says."""
    complaints = []
    for candidate in [name] if name else FINDERS:
        sandbox = FINDERS[candidate]()
        if sandbox is None:
            complaints.append(f"{candidate} is not installed")
            continue
        try:
            verdict = judge(sandbox, HARMLESS)
        except SandboxError as error:
            complaints.append(str(error))
            continue
        if verdict.passed:
            return sandbox
        complaints.append(f"{candidate} does not run even a harmless program: {verdict.why}")
    raise SandboxError(
        "generated code needs a sandbox: pip install --editable '.[eval]' (Linux), or Debian's bubblewrap. "
        + "; ".join(complaints)
    )
