"""Settings: one model for the command line, the environment, a file and the Serve builder."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import yaml

from deployments.settings import SUBJECTS, Settings
from deployments.settings_options import declared
from deployments.variables import check_environment
from model.config import ConfigError, EngineConfig, ModelConfig

SHAPE: dict[str, Any] = {"vocab_size": 100, "n_positions": 256, "n_embd": 64, "n_layer": 1, "n_head": 8}


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    for name in [name for name in os.environ if name.startswith("STARCODER_")]:
        monkeypatch.delenv(name)


def write(path: Path, **values: Any) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def test_command_line_beats_environment_beats_file_beats_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "s.yaml", model="file", port=1001, max_num_seqs=3, seed=7)
    monkeypatch.setenv("STARCODER_MODEL", "environment")
    monkeypatch.setenv("STARCODER_PORT", "1002")
    settings = Settings.from_command_line(["--config", str(file), "--model", "option"])
    assert (settings.model, settings.port, settings.seed) == ("option", 1002, 7)
    assert settings.max_num_seqs == 3
    assert settings.host == "127.0.0.1"


def test_sizes_are_written_alike_wherever_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "s.yaml", api={"max_head_bytes": "16KiB", "max_body_bytes": 5000}, kv_cache_memory="1.5GB")
    monkeypatch.setenv("STARCODER_TEAMS__JOURNAL_BYTES", "2GB")
    settings = Settings.from_command_line(["--config", str(file), "--device-bandwidth", "3.35TB"])
    assert (settings.api.max_head_bytes, settings.api.max_body_bytes) == (16 << 10, 5000)
    assert (settings.teams.journal_bytes, settings.kv_cache_memory) == (2_000_000_000, 1_500_000_000)
    assert settings.device_bandwidth == 3_350_000_000_000
    assert Settings.from_command_line(["--kv-cache-memory", "64MiB"]).kv_cache_memory == 64 << 20
    assert Settings.model_validate({"kv_cache_memory": "134217728"}).kv_cache_memory == 128 << 20


def test_every_setting_is_an_option_with_help_for_people() -> None:
    """Each in a group of its subject, without words of the program's own."""
    parser = Settings.parser()
    help = parser.format_help()
    for name, field in declared(Settings):
        assert f"--{name.replace('_', '-')} " in help.replace(",", " ").replace("\n", " ")
        assert field.description, name
    assert [title for title in SUBJECTS.values() if f"\n{title}:\n" not in help] == []
    assert len(parser._optionals._group_actions) == 2, "a setting without a subject"  # --help and --config
    for internal in ("None", "factory", "Undefined", "lambda", "Decimal", "tuple", "Path", "<"):
        assert internal not in help
    assert "(default: 512MiB)" in help
    assert "(default: 1800)" in help


@pytest.mark.parametrize("columns", ["20", "40", "200"])
def test_help_fits_the_terminal(columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    lines = Settings.parser().format_help().splitlines()
    assert max(len(line) for line in lines if " " in line.strip()) <= max(100, int(columns))


def test_builder_argument_meets_file_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`serve run deployments.app:build model=x config=file` validates a dict of strings."""
    file = write(tmp_path / "s.yaml", model="file", seed=7)
    monkeypatch.setenv("STARCODER_BLOCK_SIZE", "32")
    settings = Settings.model_validate({"config": str(file), "model": "x", "tensor_parallel_size": "2"})
    assert (settings.model, settings.tensor_parallel_size) == ("x", 2)
    assert (settings.seed, settings.block_size) == (7, 32)


def test_file_from_the_environment_and_nested_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "s.yaml", **{"max-num-seqs": 5, "api": {"max_fan_out": 9}})
    monkeypatch.setenv("STARCODER_CONFIG", str(file))
    monkeypatch.setenv("STARCODER_API__MAX_LOGPROBS", "3")
    settings = Settings.from_command_line(["--api.max-stop-strings", "2"])
    assert settings.max_num_seqs == 5
    assert (settings.api.max_fan_out, settings.api.max_logprobs, settings.api.max_stop_strings) == (9, 3, 2)


def test_names_are_a_list_or_one_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write(tmp_path / "s.yaml", allowed_hosts=["a.test", "*.b.test"])
    monkeypatch.setenv("STARCODER_ALLOWED_ORIGINS", "https://a.test, vscode-webview://*")
    settings = Settings.from_command_line(["--config", str(file)])
    assert settings.allowed_hosts == ("a.test", "*.b.test")
    assert settings.allowed_origins == ("https://a.test", "vscode-webview://*")
    assert Settings.from_command_line(["--allowed-hosts", "c.test,d.test"]).allowed_hosts == ("c.test", "d.test")
    assert Settings.model_validate({"allowed_hosts": "e.test"}).allowed_hosts == ("e.test",)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--min-replicas", "3", "--max-replicas", "2"], "below min_replicas"),
        (["--max-num-seqs", "64", "--max-num-batched-tokens", "32"], "below max_num_seqs"),
        (["--draft-revision", "main"], "no draft_model"),
        (["--port", "70000"], "port"),
        (["--port", "abc"], "port"),
        (["--device", "cpu", "--dtype", "float16"], "float16"),
        (["--tensor-parallel-size", "0"], "tensor_parallel_size"),
        (["--gpu-memory-utilization", "1.5"], "gpu_memory_utilization"),
        (["--metrics-port", "8000"], "8000"),
        (["--model", ""], "model"),
    ],
)
def test_wrong_settings_are_named(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Settings.from_command_line(arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--modle", "x"], "there is no option --modle (did you mean '--model'?)"),
        (["--api.max-fan=3"], "there is no option --api.max-fan (did you mean '--api.max-fan-out'?)"),
        (["--port", "1", "--xyzzy"], "there is no option --xyzzy"),
        (["--max-num-seq", "4"], "there is no option --max-num-seq (did you mean '--max-num-seqs'?)"),
        (["pico"], "'pico' is one argument too many"),
        (["--port"], "argument --port: expected one argument"),
        (
            ["--device", "gpu"],
            "argument --device: invalid choice: 'gpu' (choose from 'auto', 'cpu', 'cuda')",
        ),
    ],
)
def test_a_wrong_option_is_answered_in_two_lines(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as exit:
        Settings.from_command_line(arguments)
    assert exit.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert (first, second) == (f"starcoder serve: {message}", "`starcoder serve --help` says what there is.")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("modle: x", "unknown setting 'modle' .did you mean 'model'"),
        ("api: {max_fan: 1}", r"api.max_fan: unknown setting \(did you mean 'api.max_fan_out'"),
        ("kv_cache_memory: 24", "kv_cache_memory: 24 may mean two sizes: write 24GiB or 24GB"),
        ("[1, 2]", "not a list"),
        ("a: [", "not YAML"),
        ("config: other.yaml", "unknown setting 'config'"),
        ("port: {a: 1}", "port"),
    ],
)
def test_bad_file(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(content)
    with pytest.raises(ConfigError, match=message):
        Settings.from_command_line(["--config", str(file)])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file"):
        Settings.from_command_line(["--config", str(tmp_path / "none.yaml")])


def test_empty_file_changes_nothing(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("")
    assert Settings.from_command_line(["--config", str(file)]).model == "nano"


def test_unknown_variable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARCODER_MAX_NUM_SEQ", "3")
    with pytest.raises(ConfigError, match=r"STARCODER_MAX_NUM_SEQ is no setting \(did you mean 'max_num_seqs'"):
        Settings.from_command_line([])


def test_kubernetes_service_links_are_no_settings() -> None:
    links = {
        "STARCODER_SERVICE_HOST": "10.0.0.1",
        "STARCODER_SERVICE_PORT_HTTP": "8000",
        "STARCODER_PORT_8000_TCP_ADDR": "10.0.0.1",
        "STARCODER_SERVE_SVC_SERVICE_HOST": "10.0.0.1",
        "STARCODER_SERVE_SVC_PORT": "tcp://10.0.0.1:8000",
    }
    check_environment(links, Settings.model_fields)
    with pytest.raises(ConfigError, match="enableServiceLinks"):
        check_environment({"STARCODER_PORT": "tcp://10.0.0.1:8000"}, Settings.model_fields)


def test_every_engine_field_is_a_setting_with_the_same_default() -> None:
    settings = Settings()
    assert settings.engine_config() == EngineConfig(model="nano")
    for name, field in EngineConfig.model_fields.items():
        assert Settings.model_fields[name].annotation == field.annotation


def test_changes_of_the_engine_config_win() -> None:
    config = Settings(max_num_seqs=4).engine_config(model="/x", num_threads=2)
    assert (config.model, config.num_threads, config.max_num_seqs) == ("/x", 2, 4)


def test_settings_that_do_not_fit_the_checkpoint() -> None:
    model = ModelConfig.model_validate(SHAPE)
    Settings(tensor_parallel_size=4, max_model_len=256).check_model(model)
    with pytest.raises(ConfigError, match="does not divide"):
        Settings(tensor_parallel_size=3).check_model(model)
    with pytest.raises(ConfigError, match="does not divide tensor_parallel_size=4"):
        Settings(tensor_parallel_size=4, decode_context_parallel_size=3).check_model(model)
    with pytest.raises(ConfigError, match="window of 256"):
        Settings(max_model_len=257).check_model(model)


@pytest.mark.parametrize(
    ("device", "available", "fits"),
    [
        ("cuda", 0, False),
        ("cuda", 3, False),
        ("cuda", 4, True),
        ("auto", 0, True),
        ("auto", 2, False),
        ("cpu", 0, True),
    ],
)
def test_gpus_that_are_not_there(device: Any, available: int, fits: bool) -> None:
    settings = Settings(device=device, tensor_parallel_size=2, min_replicas=2)
    if fits:
        settings.check_gpus(available)
    else:
        with pytest.raises(ConfigError, match=r"needs 4 GPU\(s\)"):
            settings.check_gpus(available)


def test_name_for_clients(tmp_path: Path) -> None:
    checkpoint = tmp_path / "my-model"
    checkpoint.mkdir()
    assert Settings().model_id == "nano"
    assert Settings(model=f"{checkpoint}/").model_id == "my-model"
    assert Settings(model="bigcode/starcoder").model_id == "bigcode/starcoder"
    assert Settings(model="bigcode/starcoder", served_model_name="sc").model_id == "sc"


def test_a_directory_that_has_gone_keeps_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics of replicas that cannot start are of the same model."""
    monkeypatch.chdir(tmp_path)
    checkpoint = tmp_path / "models" / "mine"
    checkpoint.mkdir(parents=True)
    given = [
        Settings(model=name) for name in ("models/mine", "./models/mine", f"{checkpoint}/", "models/../models/mine")
    ]
    assert {settings.model for settings in given} == {str(checkpoint)}
    checkpoint.rename(tmp_path / "gone")
    monkeypatch.chdir("/")
    assert {settings.model_id for settings in given} == {"mine"}
    assert {pickle.loads(pickle.dumps(settings)).model_id for settings in given} == {"mine"}
    assert Settings(model="models/mine").model_id == "models/mine"  # now it can only be a repository's


def test_travels_to_a_replica_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    data = pickle.dumps(Settings(port=9001))
    monkeypatch.setenv("STARCODER_PORT", "9002")
    monkeypatch.setenv("STARCODER_NONSENSE", "1")
    assert pickle.loads(data).port == 9001


@pytest.fixture
def no_collector(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    import os

    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    return monkeypatch


def test_a_collector_comes_from_opentelemetrys_own_variables(no_collector: pytest.MonkeyPatch) -> None:
    assert Settings().otlp_endpoint is None
    no_collector.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://collector:4318")
    assert Settings().otlp_endpoint == "http://collector:4318"
    no_collector.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://traces:4318/v1/traces")
    assert Settings().otlp_endpoint == "http://traces:4318/v1/traces"
    assert Settings(otlp_endpoint="http://given:4318").otlp_endpoint == "http://given:4318"
    no_collector.setenv("OTEL_SDK_DISABLED", "true")
    assert Settings().otlp_endpoint is None


@pytest.mark.parametrize("endpoint", ["collector:4318", "grpc://collector:4317", "http://"])
def test_a_collector_that_is_no_url_is_refused(no_collector: pytest.MonkeyPatch, endpoint: str) -> None:
    with pytest.raises(ConfigError, match=r"otlp_endpoint=.* is no URL"):
        Settings.from_command_line(["--otlp-endpoint", endpoint])


def test_a_protocol_that_is_not_spoken_is_refused(no_collector: pytest.MonkeyPatch) -> None:
    no_collector.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
    assert Settings().otlp_endpoint is None
    with pytest.raises(ConfigError, match="http/protobuf only"):
        Settings.from_command_line(["--otlp-endpoint", "http://collector:4317"])
