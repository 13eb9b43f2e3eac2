"""compose.yaml: what it mounts and names exists, the server takes its settings, nothing is open that need not be."""

from __future__ import annotations

import json
import os
import re
import subprocess
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from deployments.settings import Settings
from deployments.team_settings import data_directory
from tests.support.compose import Compose, read
from tests.support.programs import program
from tests.support.stopping import longest_stop

ROOT = Path(__file__).parents[2]
FILES = {"cpu": ["compose.yaml"], "gpu": ["compose.yaml", "compose.gpu.yaml"]}
HEALTH = "http://127.0.0.1:{}/health"


def compose(kind: str, **variables: str) -> Compose:
    return read(*(ROOT / name for name in FILES[kind]), variables=variables)


@pytest.fixture(params=FILES)
def kind(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def services(kind: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose(kind)["services"]
    return found


@pytest.fixture
def settings(services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the server in the container reads of its environment."""
    for name in [name for name in os.environ if name.startswith("STARCODER_")]:
        monkeypatch.delenv(name)
    for name, value in services["starcoder"]["environment"].items():
        monkeypatch.setenv(name, value)
    return Settings()


def bound(services: dict[str, dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Mounts of files: service, here, there."""
    mounts = [(name, mount.split(":")) for name, service in services.items() for mount in service["volumes"]]
    return [(name, mount[0], mount[1]) for name, mount in mounts if mount[0].startswith(".")]


def test_it_is_what_the_specification_wants(kind: str) -> None:
    spec = find_spec("check_jsonschema")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the schema of compose files is not here (check-jsonschema, in the extra dev)")
    [package] = spec.submodule_search_locations
    schema = json.loads((Path(package) / "builtin_schemas" / "vendor" / "compose-spec.json").read_text())
    jsonschema.validate(compose(kind), schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**compose(kind), "service": {}}, schema)


def test_the_server_takes_its_settings(settings: Settings, services: dict[str, dict[str, Any]], kind: str) -> None:
    server = services["starcoder"]
    assert settings.host == "0.0.0.0"
    assert settings.metrics_port is not None
    assert settings.allowed_hosts == ("starcoder",)
    assert server["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]
    assert HEALTH.format(settings.port) in server["healthcheck"]["test"]
    assert (settings.model, settings.device) == {"cpu": ("nano", "auto"), "gpu": ("bigcode/starcoder", "cuda")}[kind]


def test_variables_change_what_is_served_and_where() -> None:
    server = compose("cpu", STARCODER_MODEL="pico", PUBLISH="0.0.0.0", TORCH_INDEX="there")["services"]["starcoder"]
    assert server["environment"]["STARCODER_MODEL"] == "pico"
    assert server["ports"] == ["0.0.0.0:8000:8000"]
    assert server["build"]["args"]["TORCH_INDEX"] == "there"
    devices = compose("gpu", GPUS="2")["services"]["starcoder"]["deploy"]["resources"]["reservations"]["devices"]
    assert devices == [{"driver": "nvidia", "count": "2", "capabilities": ["gpu"]}]


def test_the_image_is_one_that_the_recipe_makes(services: dict[str, dict[str, Any]], kind: str) -> None:
    dockerfile = (ROOT / "Dockerfile").read_text()
    server = services["starcoder"]
    target = server["build"]["target"]
    assert target == {"cpu": "cpu", "gpu": "cuda"}[kind]
    assert re.search(rf"^FROM \S+ AS {target}$", dockerfile, re.MULTILINE)
    assert f"--target {target} " in dockerfile
    assert f"-t {server['image']} ." in dockerfile
    assert all(f"ARG {name}" in dockerfile for name in server["build"]["args"])
    assert f"USER {server['user']}" in dockerfile
    assert server["healthcheck"]["test"][1] == "wget"


def test_volumes_belong_to_the_servers_user(
    services: dict[str, dict[str, Any]], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """A new volume takes its owner from the image's directory; what has to stay is below one."""
    [made] = re.findall(
        r"install --directory --owner 10001 --group 10001 (.+)$", (ROOT / "Dockerfile").read_text(), re.M
    )
    server = services["starcoder"]
    volumes = dict(mount.split(":") for mount in server["volumes"])
    assert set(volumes) <= set(compose(kind)["volumes"])
    assert set(volumes.values()) == set(made.split())
    monkeypatch.setenv("XDG_DATA_HOME", server["environment"]["XDG_DATA_HOME"])
    assert data_directory().parent == Path(volumes["data"])
    assert server["environment"]["HF_HOME"] == volumes["models"]


def test_nobody_has_more_rights_or_doors_than_needed(services: dict[str, dict[str, Any]]) -> None:
    for service in services.values():
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["read_only"]
        assert service["restart"] == "unless-stopped"
        assert not {"privileged", "network_mode", "pid", "ipc"} & set(service)
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert re.fullmatch(r"[\w./-]+:v?\d[\w.-]*", service["image"])
    assert any(mount.startswith("/tmp:exec,") for mount in services["starcoder"]["tmpfs"])


def test_it_may_end_in_its_own_time(settings: Settings, services: dict[str, dict[str, Any]]) -> None:
    server = services["starcoder"]
    assert server["stop_signal"] == "SIGTERM"
    assert longest_stop(settings) < float(server["stop_grace_period"].removesuffix("s"))


def test_what_is_mounted_exists(services: dict[str, dict[str, Any]]) -> None:
    assert bound(services)
    assert [here for _, here, _ in bound(services) if not (ROOT / here).exists()] == []


def test_prometheus_scrapes_the_server_and_has_the_rules(
    settings: Settings, services: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    mounted = {there: ROOT / here for name, here, there in bound(services) if name == "prometheus"}
    flags = dict(flag.split("=") for flag in services["prometheus"]["command"])
    text = mounted[flags["--config.file"]].read_text()
    configuration = yaml.safe_load(text)
    for job in configuration["scrape_configs"]:
        assert job["static_configs"] == [{"targets": [f"starcoder:{settings.metrics_port}"]}]
    assert [(job["job_name"], job["metrics_path"]) for job in configuration["scrape_configs"]] == [
        ("starcoder", "/metrics"),
        ("ray", "/ray"),
    ]
    here = tmp_path / "prometheus.yml"
    here.write_text(text.replace("/etc/prometheus/rules", str(mounted["/etc/prometheus/rules"])))
    result = subprocess.run(
        [program("promtool", "prometheus"), "check", "config", here], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "2 rule files found" in result.stdout


def test_grafana_finds_the_boards_and_prometheus(services: dict[str, dict[str, Any]]) -> None:
    mounted = {there: ROOT / here for name, here, there in bound(services) if name == "grafana"}
    provisioning = mounted["/etc/grafana/provisioning"]
    [source] = yaml.safe_load((provisioning / "datasources" / "starcoder.yaml").read_text())["datasources"]
    [port] = services["prometheus"]["ports"]
    assert (source["type"], source["isDefault"]) == ("prometheus", True)
    assert source["url"] == f"http://prometheus:{port.rpartition(':')[2]}"
    [provider] = yaml.safe_load((provisioning / "dashboards" / "starcoder.yaml").read_text())["providers"]
    boards = mounted[provider["options"]["path"]]
    assert len(list(boards.glob("*.json"))) == 3
    home = Path(services["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert (mounted[str(home.parent)] / home.name).is_file()


def test_the_guide_lays_over_it_what_fits(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its override for TLS, and the command without compose."""
    guide = (ROOT / "docs" / "deploy.md").read_text().replace("\\\n", " ")
    [override] = re.findall(r"^```yaml\n(services:.*?)^```", guide, re.MULTILINE | re.DOTALL)
    tls = yaml.safe_load(override)["services"]["starcoder"]
    server = compose(kind)["services"]["starcoder"]
    places = {Path(tls["environment"][name]).parent for name in ("STARCODER_SSL_CERTFILE", "STARCODER_SSL_KEYFILE")}
    assert [str(place) for place in places] == [tls["volumes"][0].split(":")[1]]
    assert tls["healthcheck"]["test"][-1] == server["healthcheck"]["test"][-1].replace("http:", "https:")

    [command] = re.findall(r"docker run ([^`\n]*)", guide.partition("**By `docker run`**")[2])
    given = dict(pair.split("=", 1) for pair in re.findall(r"--env (\w+=\S+)", command))
    for name in ("XDG_DATA_HOME", "HF_HOME"):
        assert given[name] == server["environment"][name]
    assert {mount.split(":")[1] for mount in re.findall(r"--volume (\S+)", command)} == {
        mount.split(":")[1] for mount in server["volumes"]
    }
    for name in [name for name in os.environ if name.startswith("STARCODER_")]:
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    assert Settings().port == 8000
    for flag in ("--init", "--read-only", "--cap-drop ALL", "--stop-timeout 90", "--tmpfs /tmp:exec"):
        assert flag in command
