"""The tensor-parallel group: one Ray actor a rank, in the placement group of the replica that owns them.

The actors are not detached and have no name: when the replica goes, Ray ends them, and rank 0 sees its client go.
No token crosses Ray: each rank is in one long call of `run`, and the replica talks to rank 0 over a Unix socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import logging
import os
import shutil
import signal
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import PlacementGroup
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from deployments.cluster.temporary import private_directory, remove_stale
from model.config import ELSEWHERE, EngineConfig
from monitoring import logs

PROGRESS_PERIOD_S = 1.0
ENDING_TOGETHER_S = 0.5


class RankProcess:
    """One rank as a Ray actor. Imports PyTorch in its own process only.

    `load` and `run` block one thread; `progress` answers on another.
    """

    def __init__(
        self, config: EngineConfig, rank: int, size: int, configure_logs: Callable[..., None] | None = None
    ) -> None:
        from model.process.rank import Rank

        if configure_logs is not None:
            configure_logs(rank=rank)
        self._rank = Rank(config, rank, size)
        self._loaded = 0.0

    def listen(self) -> tuple[int, str]:
        """This process's id, and on rank 0 the rendezvous address."""
        return os.getpid(), self._rank.listen() if self._rank.group.is_first else ""

    def load(self, address: str) -> dict[str, Any]:
        def progress(share: float) -> None:
            self._loaded = share

        with _failure_in_the_log():
            report = self._rank.load(address, progress)
        # What is there now stays: a full collection that looked at all of it would stop the engine for 0.1 s. Serve
        # does the same in its proxies and replicas.
        gc.collect()
        gc.freeze()
        return report

    def run(self, socket_path: str) -> None:
        with _failure_in_the_log():
            self._rank.run(socket_path)

    def progress(self) -> float:
        return self._loaded


@contextlib.contextmanager
def _failure_in_the_log() -> Iterator[None]:
    """Said in the rank, too: the replica may be gone, and gets the first line of the first rank only."""
    try:
        yield
    except Exception as error:
        logs.event("rank.failed", level=logging.ERROR, exception=logs.describe(error))
        raise


async def cause(loads: Iterable[asyncio.Future[Any]], patience_s: float = 10.0) -> BaseException:
    """Why ranks could not load, some of which have failed.

    One failed rank leaves the others waiting, so they are not waited for; but where all that have failed say that the
    reason is another rank's, that one gets some time to tell it.
    """
    loads = list(loads)
    while True:
        errors = [error for load in loads if load.done() and (error := load.exception()) is not None]
        reasons = [error for error in errors if ELSEWHERE not in str(error)]
        waiting = [load for load in loads if not load.done()]
        if reasons or not waiting:
            return (reasons or errors)[0]
        done, _ = await asyncio.wait(waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
        if not done:
            return errors[0]


class RankGroup:
    """The ranks of one engine, from start to end.

    reports: what each rank said after loading, rank 0 first. socket_path: where the engine listens.
    """

    def __init__(self, actors: list[Any], pids: list[int], socket_path: Path, runs: list[Any]) -> None:
        self.socket_path = socket_path
        self.pids = pids
        self.reports: list[dict[str, Any]] = []
        self._actors = actors
        self._runs = runs

    @classmethod
    async def start(
        cls,
        config: EngineConfig,
        placement_group: PlacementGroup,
        bundle: dict[str, float],
        on_progress: Callable[[float], None] = lambda _: None,
        configure_logs: Callable[..., None] | None = None,
        rank_class: type[RankProcess] = RankProcess,
    ) -> RankGroup:
        """Start, load and run one rank in each of the group's bundles after the first.

        bundle: the resources of each. configure_logs: called in each rank's process, with its number as `rank`.
        Raises what a rank raised; no process is left then.
        """
        size = config.tensor_parallel_size
        remove_stale()
        directory = private_directory()
        actor_class = ray.remote(rank_class)
        actors = [
            actor_class.options(
                num_cpus=bundle["CPU"],
                num_gpus=bundle.get("GPU", 0),
                max_restarts=0,
                max_concurrency=2,
                scheduling_strategy=PlacementGroupSchedulingStrategy(
                    placement_group=placement_group, placement_group_bundle_index=rank + 1
                ),
            ).remote(config, rank, size, configure_logs)
            for rank in range(size)
        ]
        group = cls(actors, [], directory / "engine.sock", [])
        try:
            listening = await asyncio.gather(*[actor.listen.remote() for actor in actors])
            group.pids = [pid for pid, _ in listening]
            address = listening[0][1]
            group.reports = await group._load(address, on_progress)
            group._runs = [actor.run.remote(os.fspath(group.socket_path)) for actor in actors]
        except BaseException:
            group.kill()
            raise
        return group

    async def _load(self, address: str, on_progress: Callable[[float], None]) -> list[dict[str, Any]]:
        loads = [_task(actor.load.remote(address)) for actor in self._actors]
        try:
            while True:
                done, pending = await asyncio.wait(
                    loads, timeout=PROGRESS_PERIOD_S, return_when=asyncio.FIRST_EXCEPTION
                )
                if any(load.exception() is not None for load in done):
                    raise await cause(loads)
                if not pending:
                    return [load.result() for load in loads]
                shares = await asyncio.gather(*[actor.progress.remote() for actor in self._actors])
                on_progress(min(shares))
        finally:
            for load in loads:
                load.cancel()

    async def ended(self) -> str:
        """Wait until a rank's `run` ends; why it did.

        Ranks end together, since the others cannot go on without one. So those that end with it are waited for: one
        whose process is gone is named before those that noticed it sooner than Ray did.
        """
        runs, order = [_task(run) for run in self._runs], list[int]()
        for rank, run in enumerate(runs):
            run.add_done_callback(functools.partial(_note, order, rank))
        await asyncio.wait(runs, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(runs, timeout=ENDING_TOGETHER_S)
        errors = [(rank, error) for rank in order if (error := runs[rank].exception()) is not None]
        if not errors:
            return "a rank stopped by itself"
        rank, error = next((each for each in errors if isinstance(each[1], RayActorError)), errors[0])
        reason = _first_line(error)
        logs.event("rank.died", reason, level=logging.ERROR, rank=rank, rank_pid=self.pids[rank])
        return f"rank {rank} died: {reason}"

    async def stopped(self, timeout_s: float) -> bool:
        """Wait for all ranks to return after the engine was asked to shut down; False where one does not."""
        runs = [_task(run) for run in self._runs]
        if not runs:
            return True
        _, pending = await asyncio.wait(runs, timeout=timeout_s)
        return not pending

    def kill(self) -> None:
        """End every rank at once, also one that hangs or is stopped, and remove the socket's directory."""
        for pid in self.pids:
            # Ray asks the process to end, which a stopped one never hears. The ranks run on this node.
            with contextlib.suppress(ProcessLookupError, PermissionError):
                if _is_ray_worker(pid):
                    os.kill(pid, signal.SIGKILL)
        self.release()

    def release(self) -> None:
        """Let the rank processes go, once they have stopped by themselves."""
        for actor in self._actors:
            with contextlib.suppress(Exception):
                ray.kill(actor, no_restart=True)
        self.remove_socket()

    def remove_socket(self) -> None:
        """Remove the socket and its directory: once both ends are connected, nobody needs a name for it."""
        shutil.rmtree(self.socket_path.parent, ignore_errors=True)


def _task(ref: Any) -> asyncio.Task[Any]:
    """Ray's reference as a task whose exception, where nobody asks for it, is not worth a log line."""

    async def result() -> Any:
        return await ref

    task = asyncio.create_task(result())
    task.add_done_callback(lambda done: done.cancelled() or done.exception())
    return task


def _note(order: list[int], rank: int, _: object) -> None:
    order.append(rank)


def _first_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None)
    return (str(cause or error).strip().splitlines() or [type(error).__name__])[0]


def _is_ray_worker(pid: int) -> bool:
    """Guards against a process id that was given to somebody else since."""
    try:
        return b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return not Path("/proc/self").exists()
