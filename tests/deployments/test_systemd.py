"""The unit of systemd: systemd takes it, its environment file is settings, and what Ray and GPUs need stays allowed."""

from __future__ import annotations

import configparser
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deployments.settings import Settings
from deployments.team_settings import data_directory
from tests.support.programs import program
from tests.support.stopping import longest_stop

FOLDER = Path(__file__).parents[2] / "deployments" / "systemd"
UNIT = (FOLDER / "starcoder.service").read_text()


class _Many(dict[str, str]):
    """systemd takes a name several times."""

    def __setitem__(self, key: str, value: str) -> None:
        super().__setitem__(key, f"{self[key]} {value}" if key == "Environment" and key in self else value)


@pytest.fixture(scope="module")
def service() -> dict[str, str]:
    lines = UNIT.partition("[Service]\n")[2].partition("[Install]")[0].splitlines()
    found = _Many()
    for line in lines:
        if line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found[key] = value
    return found


def environment(*files: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string("[all]\n" + "\n".join(files))
    return dict(parser["all"])


def test_systemd_takes_it(tmp_path: Path) -> None:
    unit = tmp_path / "starcoder.service"
    unit.write_text(UNIT.replace("/opt/starcoder/bin/starcoder", str(Path(sys.executable).parent / "starcoder")))
    command = [program("systemd-analyze", "systemd"), "verify", unit]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_environment_file_is_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it suggests, too."""
    for name in [name for name in os.environ if name.startswith("STARCODER_")]:
        monkeypatch.delenv(name)
    text = (FOLDER / "starcoder.env").read_text()
    given = environment(text)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.model, settings.host, settings.port, settings.metrics_port) == ("nano", "127.0.0.1", 8000, 9464)

    suggested = [line.removeprefix("# ") for line in text.splitlines() if line.startswith(("# STARCODER_", "# HF_"))]
    assert len(suggested) == 8
    for name, value in environment(*suggested[:3], *suggested[4:]).items():
        monkeypatch.setenv(name, value)
    settings = Settings()
    assert (settings.model, settings.tensor_parallel_size) == ("bigcode/starcoder", 2)
    assert settings.teams.required
    assert settings.certificate is not None


def test_what_has_to_stay_is_where_it_may_write(service: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    given = dict(pair.split("=") for pair in service["Environment"].split())
    monkeypatch.setenv("XDG_DATA_HOME", given["XDG_DATA_HOME"])
    assert service["ProtectSystem"] == "strict"
    assert data_directory().parent == Path("/var/lib") / service["StateDirectory"]
    assert given["HOME"] == service["WorkingDirectory"] == given["XDG_DATA_HOME"]
    for name in ("XDG_CACHE_HOME", "HF_HOME"):
        assert Path(given[name]).is_relative_to(Path("/var/cache") / service["CacheDirectory"])


def test_it_stops_the_command_alone_and_waits_for_it(service: dict[str, str]) -> None:
    assert service["KillMode"] == "mixed"
    assert service["KillSignal"] == "SIGTERM"
    assert longest_stop(Settings()) < float(service["TimeoutStopSec"])
    assert service["RestartPreventExitStatus"] == "2"


def test_devices_shared_memory_and_compiled_code_stay_allowed(service: dict[str, str]) -> None:
    for forbidden in ("PrivateDevices", "ProtectClock", "DevicePolicy", "MemoryDenyWriteExecute", "PrivateNetwork"):
        assert forbidden not in service
    assert set(service["RestrictAddressFamilies"].split()) == {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"}
    assert service["NoNewPrivileges"] == "yes"
    assert service["User"] != "root"
