"""How each server is started: its command line and its environment. Ours is as it is by default, and so are others."""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import httpx

from benchmarks.peers.engines import OURS, PEERS, Engine
from benchmarks.peers.environments import python_of, variables_of
from benchmarks.peers.vllm_cpu import variables
from benchmarks.running import running
from benchmarks.servers import ROOT, Server, alone
from benchmarks.stack.asking import PATH
from deployments.command.ports import free_port

MODEL = "starcoder"
PATIENCE_S = 5.0


@dataclass(frozen=True)
class Setup:
    """What all of them are told. max_len: tokens of a sequence. ours: more options of `starcoder serve`."""

    checkpoint: Path
    dtype: str
    threads: int
    max_len: int
    max_seqs: int
    ours: str = ""


@dataclass(frozen=True)
class Contender:
    """python: of its environment, given the folder of all. command, environment: given that Python and the setup."""

    engine: Engine
    python: Callable[[Path], Path]
    command: Callable[[Path, Setup, int], list[str]]
    environment: Callable[[Path, Setup], dict[str, str]]


def _our_command(python: Path, setup: Setup, port: int) -> list[str]:
    command = [str(python), "-m", "deployments.command.cli", "serve", "--model", str(setup.checkpoint)]
    command += ["--served-model-name", MODEL, "--port", str(port), "--device", "cpu", "--dtype", setup.dtype]
    command += ["--num-threads", str(setup.threads)]
    command += ["--max-model-len", str(setup.max_len), "--max-num-seqs", str(setup.max_seqs)]
    return command + shlex.split(setup.ours)


def _our_environment(python: Path, setup: Setup) -> dict[str, str]:
    """Ray's workers run at a lower priority by default, so that strangers on the machine would hit us alone."""
    return {**alone(), "PYTHONPATH": str(ROOT), "RAY_worker_niceness": "0"}


def _vllm_command(python: Path, setup: Setup, port: int) -> list[str]:
    command = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(setup.checkpoint)]
    command += ["--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port), "--dtype", setup.dtype]
    command += ["--max-model-len", str(setup.max_len), "--max-num-seqs", str(setup.max_seqs), "--disable-log-stats"]
    return command


def _vllm_environment(python: Path, setup: Setup) -> dict[str, str]:
    """Without OMP_NUM_THREADS, against which it warns where it serves; its processes talk on loopback."""
    found = {k: v for k, v in variables_of(python).items() if k != "OMP_NUM_THREADS"}
    return {**found, **variables(setup.threads, python.parent.parent), "VLLM_HOST_IP": "127.0.0.1"}


_VLLM = next(peer for peer in PEERS if peer.name == "vllm-cpu")

US = Contender(OURS, lambda folder: Path(sys.executable), _our_command, _our_environment)
OTHERS = (Contender(_VLLM, lambda folder: python_of(folder / _VLLM.name), _vllm_command, _vllm_environment),)


@contextlib.contextmanager
def serving(contender: Contender, folder: Path, setup: Setup, start_s: float) -> Iterator[tuple[Server, float]]:
    """The server on loopback, and the seconds until it had answered. Raises RuntimeError where it does not start."""
    port, python = free_port(), contender.python(folder)
    ready = partial(_answers, port)
    try:
        command, environment = contender.command(python, setup, port), contender.environment(python, setup)
        with running(command, environment, ready, start_s=start_s) as process:
            yield Server(contender.engine.name, port, process.pid, process.log), process.ready_seconds
    except OSError as error:
        raise RuntimeError(f"the server cannot be run: {os.strerror(error.errno or 0)}") from error


def _answers(port: int, log: Path) -> bool:
    """Whether it completes a prompt: some listen before they can."""
    body = {"model": MODEL, "prompt": [1, 2, 3, 4], "max_tokens": 1, "temperature": 0}
    try:
        return httpx.post(f"http://127.0.0.1:{port}{PATH}", json=body, timeout=PATIENCE_S).status_code == 200
    except httpx.HTTPError:
        return False
