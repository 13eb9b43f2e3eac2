"""Where a process keeps what it counts, who hears of its end, and what it is called."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import SimpleNamespace

import pytest

from monitoring import allocated, process, version
from monitoring.allocated import AllocatedDict
from monitoring.metrics import RECORDING_SINCE


@pytest.fixture(autouse=True)
def _in_memory() -> Iterator[None]:
    process.init(None)
    yield
    process.init(None)


def test_who_has_not_said_where_keeps_them_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_families", None)
    made = process.families()
    assert made is process.families()
    assert process.render() == process.render()


def test_a_process_in_a_directory_is_called_as_its_files_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    process.init(Path("metrics"))
    assert os.environ["PROMETHEUS_MULTIPROC_DIR"] == str(tmp_path / "metrics")
    process.families().tell_recorder("pico")
    (life,) = (tmp_path / "metrics").glob("*.alive")
    assert (
        f'{RECORDING_SINCE.full_name}{{model="pico",recorder="{life.stem}"}}'
        in process.render(tmp_path / "metrics").decode()
    )


def test_where_an_end_cannot_be_written_down_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ends: list[object] = []

    class Full:
        def expect_farewell(self, key: str) -> None:
            raise OSError("no room")

        def farewell(self) -> None:
            ends.append("told")
            raise OSError("no room")

    monkeypatch.setattr(process, "_shared", Full())
    monkeypatch.setattr(process, "atexit", SimpleNamespace(register=ends.append))
    process.expect_farewell("ingress", "pico")
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (
        logging.WARNING,
        "nobody will notice if this process is killed: no room",
    )
    process.farewell()
    assert ends == [process.farewell, "told"]
    monkeypatch.setattr(process, "_shared", None)
    process.farewell()
    assert len(ends) == 2, "in memory there is nobody to tell"


def test_a_source_that_is_not_installed_has_a_version_too(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def absent(name: str) -> str:
        asked.append(name)
        raise PackageNotFoundError(name)

    version.package_version.cache_clear()
    try:
        monkeypatch.setattr(version, "version", absent)
        assert version.package_version() == "0+source"
        version.package_version.cache_clear()
        monkeypatch.setattr(version, "version", lambda name: f"1.2 of {name}")
        assert version.package_version() == "1.2 of starcoder-serve"
    finally:
        version.package_version.cache_clear()
    assert asked == ["starcoder-serve"]


def full(*_: object) -> None:
    raise OSError(28, "no room")


def test_a_strict_one_goes_on_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = AllocatedDict(str(tmp_path / "counter_1.db"), strict=True)
    values.write_value("before", 1.0, 0.0)
    monkeypatch.setattr(allocated, "_allocate", full)
    with pytest.raises(OSError, match="no room"):
        values.write_value("x" * (values._capacity), 1.0, 0.0)
    with pytest.raises(OSError, match="no room"):
        AllocatedDict(str(tmp_path / "counter_2.db"), strict=True)
    assert values.read_value("before") == (1.0, 0.0)
    values.close()


def test_a_file_that_is_read_takes_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "counter_1.db"
    written = AllocatedDict(str(path))
    written.write_value("key", 7.0, 0.0)
    written.close()
    size = path.stat().st_size
    monkeypatch.setattr(allocated, "_allocate", full)
    read = AllocatedDict(str(path), read_mode=True)
    assert [(key, value) for key, value, *_ in read.read_all_values()] == [("key", 7.0)]
    with pytest.raises(TypeError, match="readonly"):
        read.write_value("other", 1.0, 0.0)
    assert path.stat().st_size == size
    read.close()


def test_where_there_is_no_room_it_is_said_which_file_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(allocated, "_allocate", full)
    for name in ("counter_1.db", "gauge_livemax_1.db"):
        values = AllocatedDict(str(tmp_path / name))
        values.write_value("x" * values._capacity, 3.0, 0.0)
        assert values.read_value("x" * (values._capacity // 2)) == (3.0, 0.0)
        values.close()
    assert [
        record.getMessage().endswith(f"{tmp_path}/{name}: [Errno 28] no room")
        for record, name in zip(caplog.records, ("counter_1.db", "gauge_livemax_1.db"), strict=True)
    ] == [True, True]
    assert [path.name for path in tmp_path.iterdir()] == ["counter_1.db"]
    AllocatedDict(str(tmp_path / "gone" / "gauge_livemax_1.db")).close()


@pytest.mark.parametrize("has_fallocate", [True, False])
def test_room_is_taken_up_to_a_size_and_never_given_back(
    has_fallocate: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """macOS has no posix_fallocate."""
    if not has_fallocate:
        monkeypatch.delattr(allocated.os, "posix_fallocate", raising=False)
    elif not hasattr(os, "posix_fallocate"):
        pytest.skip("not on this system")
    with (tmp_path / "file").open("wb") as file:
        for size, expected in ((100, 100), (50, 100), (100, 100), (300, 300)):
            allocated._allocate(file.fileno(), size)
            assert os.fstat(file.fileno()).st_size == expected


def test_keys_that_fill_a_file_to_its_last_byte_fit(tmp_path: Path) -> None:
    """The library would write behind the file's end: each kind of length is tried around the end of the first size."""
    for left in range(80):
        values = AllocatedDict(str(tmp_path / f"counter_{left}.db"))
        values.write_value("k" * (values._capacity - 128), 1.0, 0.0)
        begin = values._capacity
        values.write_value("ü" * left, 2.0, 0.0)
        assert values._capacity in (begin, 2 * begin)
        assert values._used <= values._capacity
        assert values.read_value("ü" * left) == (2.0, 0.0)
        values.close()
        (tmp_path / f"counter_{left}.db").unlink()
