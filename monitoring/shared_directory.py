"""The directory in which a node's processes share their metrics, and what becomes of a process that died.

`prometheus_client`'s multiprocess mode keeps a process's values in memory-mapped files that survive it. This adds
what it leaves to the user: which processes live, and where the counts of the dead go.

- A process is named by its id and a random part (ids repeat, and containers that share a directory have the same
  ones) and holds a lock on a file of that name for as long as it lives. The kernel lets go of the lock however the
  process ends.
- `sweep` removes the gauges of the dead and adds their counters and histograms to an archive, so that no count
  goes backwards and the directory does not grow with every restart.
- A process may say what it counts as if it ends without `farewell`: who is killed cannot count that, so whoever
  sweeps does, once.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from types import MappingProxyType

from prometheus_client.mmap_dict import MmapedDict

from monitoring.allocated import AllocatedDict
from monitoring.file_locks import exclusively, is_held
from monitoring.stored_file import ARCHIVE

logger = logging.getLogger(__name__)

_NOTHING: Mapping[str, float] = MappingProxyType({})


class SharedDirectory:
    """Raises OSError where `path` can be neither made nor written."""

    def __init__(self, path: Path) -> None:
        path.mkdir(parents=True, exist_ok=True)
        self.path = path
        self._identifier = ""
        self._pid = 0
        self._life: int | None = None

    # A process that writes

    def identifier(self) -> str:
        """This process's name, new after a fork; from the first call on it counts as alive."""
        if self._pid != os.getpid():
            if not self._pid:
                os.register_at_fork(after_in_child=self._let_go)
            self._pid = os.getpid()
            self._identifier = f"{self._pid}-{secrets.token_hex(4)}"
            with self.locked():
                self._life = os.open(self._life_file(self._identifier), os.O_RDWR | os.O_CREAT, 0o644)
                fcntl.flock(self._life, fcntl.LOCK_EX)
        return self._identifier

    def expect_farewell(self, key: str) -> None:
        """Should this process end before `farewell`, one is counted. key: of a counter's series, as files have it.

        Raises OSError where there is no room to write it down.
        """
        self.identifier()
        assert self._life is not None
        os.pwrite(self._life, key.encode(), 0)

    def farewell(self) -> None:
        """This process ends in order. Not for a forked child to say, whose parent may live on."""
        if self._life is not None and self._pid == os.getpid():
            os.ftruncate(self._life, 0)

    def _let_go(self) -> None:
        """In a forked child: the lock is the parent's, and held here it would outlive the parent."""
        if self._life is not None:
            os.close(self._life)
            self._life = None

    def locked(self) -> AbstractContextManager[None]:
        """Keeps every other process and thread from reading or sweeping. Held for milliseconds. Not reentrant."""
        return exclusively(self.path)

    # A process that reads

    def swept_files(self) -> list[Path]:
        """The files to merge, once the dead are swept. Only for who holds the lock."""
        self._sweep()
        return list(self.path.glob("*.db"))

    def alive(self) -> bool:
        """Whether any process records here. Archives nothing."""
        with self.locked():
            return any(is_held(file) for file in self.path.glob("*.alive"))

    def sweep(self) -> None:
        """Archive what dead processes counted and forget their gauges; not while the file system is full."""
        with self.locked():
            self._sweep()

    def _sweep(self) -> None:
        try:
            self._sweep_all()
        except OSError as error:  # nothing is lost by waiting: what is not archived is still read
            logger.warning("metrics of ended processes cannot be archived now: %s", error)

    def _sweep_all(self) -> None:
        self._finish_archiving()
        dead = [file.stem for file in self.path.glob("*.alive") if not is_held(file)]
        if not dead:
            return
        for identifier in dead:
            for gauge in self.path.glob(f"gauge_live*_{identifier}.db"):
                gauge.unlink()
        lives = [self._life_file(identifier) for identifier in dead]
        deaths = Counter(key for file in lives if (key := file.read_text()))
        self._archive("histogram", [self.path / f"histogram_{identifier}.db" for identifier in dead])
        # The last, since they count as dead until their files of lives are gone.
        self._archive("counter", [self.path / f"counter_{identifier}.db" for identifier in dead], deaths, lives)

    def _life_file(self, identifier: str) -> Path:
        return self.path / f"{identifier}.alive"

    # The archive. The journal makes adding to it atomic: a crash neither loses a count nor counts it twice.

    def _archive(
        self, kind: str, files: Iterable[Path], more: Mapping[str, float] = _NOTHING, done_with: Iterable[Path] = ()
    ) -> None:
        """Add what the files say to the archive, and `more` by its keys. done_with: goes in the same moment."""
        files = [file for file in files if file.exists()]
        merged = [file.name for file in (*files, *done_with)]
        if not merged:
            return
        archive = self.path / f"{kind}_{ARCHIVE}.db"
        sums: dict[str, float] = dict(more)
        # A process may have died between making a file and sizing it.
        full = [file for file in (archive, *files) if file.exists() and file.stat().st_size]
        for file in full:
            for key, value, *_ in MmapedDict.read_all_values_from_file(str(file)):
                sums[key] = sums.get(key, 0.0) + value
        following = self.path / f"{kind}_{ARCHIVE}.next"
        following.unlink(missing_ok=True)
        writer = AllocatedDict(str(following), strict=True)
        for key, value in sums.items():
            writer.write_value(key, value, 0.0)
        writer.close()
        journal = self.path / "archiving.json.next"
        journal.write_text(json.dumps({"archive": archive.name, "merged": merged}))
        journal.rename(self.path / "archiving.json")
        self._finish_archiving()

    def _finish_archiving(self) -> None:
        journal = self.path / "archiving.json"
        if not journal.exists():
            return
        task = json.loads(journal.read_text())
        archive = self.path / task["archive"]
        following = archive.with_suffix(".next")
        if following.exists():
            following.rename(archive)
        for name in task["merged"]:
            (self.path / name).unlink(missing_ok=True)
        journal.unlink()
