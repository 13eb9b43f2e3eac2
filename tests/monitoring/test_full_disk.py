"""A full file system below the directory of metrics costs figures, and no process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from monitoring.allocated import AllocatedDict
from monitoring.node_page import NodePage
from tests.support.environment import with_project

ON_A_SMALL_DISK = """
import json, sys
from pathlib import Path
import monitoring
from monitoring.process import families, render
from monitoring.metrics import HTTP_REQUESTS

where, filler = Path(sys.argv[1]), int(sys.argv[2])
(where / "filler").write_bytes(bytes(filler))
monitoring.init(where / "metrics")
def counter(team):
    return families().counter(HTTP_REQUESTS, "model", team, "openai", "ok")
for number in range(2000):
    counter(f"team {number}").inc()
    counter("team 0").inc()
print(json.dumps(counter("team 0")._value.get()))
(where / "filler").unlink()
print(json.dumps(len(render(where / "metrics"))))
"""


def on_a_small_disk(where: Path, program: str, *arguments: str) -> list[Any]:
    """What the program prints, a JSON value a line. Its first argument is a file system of 256 KiB of its own."""
    mount = f"mount -t tmpfs -o size=256k tmpfs {where} && exec "
    command = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", mount + '"$@"', "sh"]
    if subprocess.run([*command, "true"], capture_output=True, check=False).returncode:
        pytest.skip("nothing may be mounted here")
    done = subprocess.run(
        [*command, sys.executable, "-c", program, str(where), *arguments],
        env=with_project(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, (done.returncode, done.stderr)
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("filler", [256 << 10, 100 << 10], ids=["from the start", "in between"])
def test_a_full_disk_kills_nobody(tmp_path: Path, filler: int) -> None:
    [count, _] = on_a_small_disk(tmp_path, ON_A_SMALL_DISK, str(filler - (16 << 10)))
    assert count == 2001


def refuse(*_: object) -> None:
    raise OSError(28, "No space left on device")


def test_values_go_on_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "counter_1.db"
    values = AllocatedDict(str(path))
    values.write_value("before", 1.0, 0.0)
    monkeypatch.setattr("monitoring.allocated._allocate", refuse)
    for number in range(3000):
        values.write_value(f"after {number}", float(number), 0.0)
    values.write_value("before", 2.0, 0.0)
    assert values.read_value("before") == (2.0, 0.0)
    assert all(values.read_value(f"after {number}") == (number, 0.0) for number in range(3000))
    in_file = {key: value for key, value, *_ in AllocatedDict.read_all_values_from_file(str(path))}
    assert in_file["before"] == 1.0
    values.close()
    from_the_start = AllocatedDict(str(tmp_path / "counter_2.db"))
    from_the_start.write_value("x", 3.0, 0.0)
    assert from_the_start.read_value("x") == (3.0, 0.0)
    from_the_start.close()


def test_a_gauge_that_nobody_sets_any_more_is_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "gauge_livesum_1.db"
    values = AllocatedDict(str(path))
    monkeypatch.setattr("monitoring.allocated._allocate", refuse)
    for number in range(3000):
        values.write_value(f"{number}", float(number), 0.0)
    assert not path.exists()
    values.close()


def test_what_cannot_be_archived_now_is_read_and_archived_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead = AllocatedDict(str(tmp_path / "counter_1-dead.db"))
    dead.write_value(json.dumps(["starcoder_x", "starcoder_x_total", {}, "Help."]), 5.0, 0.0)
    dead.close()
    (tmp_path / "1-dead.alive").touch()
    page = NodePage(tmp_path)
    with monkeypatch.context() as full:
        full.setattr("monitoring.allocated._allocate", refuse)
        assert page.text().endswith(b"\nstarcoder_x_total 5.0\n")
        assert (tmp_path / "counter_1-dead.db").exists()
    assert page.text().endswith(b"\nstarcoder_x_total 5.0\n")
    assert not (tmp_path / "counter_1-dead.db").exists()
    assert (tmp_path / "counter_archive.db").exists()
