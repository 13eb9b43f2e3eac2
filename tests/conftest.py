"""What tests share: one real server, two ranks of a tiny random StarCoder, and one browser; more in `servers.py`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from tests.support.authorities import read_once
from tests.support.cluster import Cluster
from tests.support.collector import Collector
from tests.support.leftovers import nothing_left
from tests.support.zones import FAR_WEST, stand

if TYPE_CHECKING:
    from tests.support.triton_process import TritonPrograms

pytest_plugins = (
    *("tests.support.client_table", "tests.support.fault_table", "tests.support.sharing"),
    *("tests.support.compiled_kernels", "tests.support.declared_events"),
    "tests.support.servers",  # which imports the one before
)

# OpenMP's threads wait for each other by spinning: on a busy machine one thread is far faster than two.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Engines that are to have more of them sleep while they wait.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Requests without a seed would differ from run to run on every server that a test starts.
os.environ.setdefault("STARCODER_SEED", "0")

# Days and times that are told in UTC are so wherever a server stands.
stand(FAR_WEST)

# Keys that whoever runs the tests has made for a server of their own are nobody's business here.
os.environ["STARCODER_TEAMS__DATABASE"] = "sqlite+aiosqlite:////dev/null/none.sqlite"

# A busy machine is no failure: examples have no time limit, whole tests do.
# Continuous integration draws the same examples each time: new ones are for those who can look at what they find.
settings.register_profile(
    "busy machine",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=bool(os.environ.get("CI")),
)
settings.load_profile("busy machine")

read_once()

CLUSTER_OPTIONS = (
    *("--tensor-parallel-size", "2", "--dtype", "float32", "--num-threads", "1"),
    *("--max-num-seqs", "4", "--max-queued-requests", "4"),
    *("--step-timeout-s", "8", "--health-check-period-s", "2", "--resume-timeout-s", "120"),
    *("--metrics-port", "0", "--device-bandwidth", "2e10", "--device-flops", "1e11"),
)


@pytest.fixture(scope="session", autouse=True)
def machine_is_left_as_it_was(request: pytest.FixtureRequest) -> Iterator[None]:
    """Made first, so it ends last: whatever other fixtures started has had its chance to end."""
    from tests.support.sharing import end_shared  # a plugin, which pytest wants to import itself

    with nothing_left():
        yield
        end_shared(request.config)


@pytest.fixture(scope="session")
def tiny_checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random StarCoder of 3 layers with a tokenizer: the text is noise, but always the same."""
    from tests.support.checkpoints import random_model, write_checkpoint
    from tests.support.tokenizers import write_tokenizer

    directory = tmp_path_factory.mktemp("checkpoints") / "tiny-starcoder"
    write_checkpoint(directory, random_model(vocab_size=1200, n_positions=2048))
    return write_tokenizer(directory)


@pytest.fixture(scope="session")
def triton_programs() -> Iterator[TritonPrograms]:
    from tests.support.triton_process import TritonPrograms

    with TritonPrograms() as programs:
        yield programs


@pytest.fixture(scope="session")
def cluster_collector() -> Iterator[Collector]:
    """Where the cluster sends its spans."""
    with Collector() as collector:
        yield collector


@pytest.fixture(scope="module")
def cluster(
    request: pytest.FixtureRequest,
    tiny_checkpoint: Path,
    tmp_path_factory: pytest.TempPathFactory,
    cluster_collector: Collector,
) -> Cluster:
    from tests.support.sharing import shared  # a plugin, which pytest wants to import itself

    @contextmanager
    def served() -> Iterator[Cluster]:
        directory = tmp_path_factory.mktemp("cluster")
        options = (*CLUSTER_OPTIONS, "--metrics-dir", str(directory / "metrics"))
        server = Cluster(tiny_checkpoint, directory / "serve.txt", *options, "--otlp-endpoint", cluster_collector.url)
        server.metrics_directory = directory / "metrics"
        with server.running():
            yield server

    return shared(request.config, "cluster", served)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Any]:
    """The one Chromium that all tests of the playground share."""
    from tests.support.browser import chromium

    async with chromium() as browser:
        yield browser


@pytest_asyncio.fixture(loop_scope="session")
async def context(browser: Any) -> AsyncIterator[Any]:
    """A profile of its own: no storage, no cache, no other test's pages."""
    context = await browser.new_context(viewport={"width": 1280, "height": 860}, reduced_motion="reduce")
    yield context
    await context.close()
