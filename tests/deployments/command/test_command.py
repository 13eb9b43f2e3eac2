"""The command without Ray: what is checked first, what is said, and what is left behind."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.responses import PlainTextResponse

from deployments.command import checks, cli
from deployments.command.ports import free_port
from deployments.command.processes import descendants
from deployments.command.ready import answer, ready_message, said_of
from deployments.settings import Settings
from model.config import ConfigError
from tests.support.certificates import make_certificate
from tests.support.checkpoints import random_model, write_checkpoint
from tests.support.http_server import serving
from tests.support.tokenizers import write_tokenizer
from tests.support.waiting import wait_until


def test_a_port_in_use_is_said_before_anything_starts(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match="Address already in use"):
            checks.check_port("127.0.0.1", port)
    checks.check_port("127.0.0.1", port)


def test_a_host_that_is_not_ours() -> None:
    with pytest.raises(ConfigError, match="cannot listen on"):
        checks.check_port("203.0.113.7", 8000)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["serve", "--model", "/no/such/model"], "no such directory"),
        (["serve", "--min-replicas", "2", "--max-replicas", "1"], "below min_replicas"),
        (["nonsense"], "there is no command 'nonsense'\n"),
        (["serv"], "there is no command 'serv' (did you mean 'serve'?)\n"),
    ],
)
def test_wrong_settings_end_with_2_and_without_ray(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main([*arguments, "--log-format", "text"] if arguments[0] == "serve" else arguments) == 2
    assert message in capsys.readouterr().err


def test_settings_are_checked_without_importing_ray_or_torch() -> None:
    code = (
        "import sys; from deployments.command import cli; code = cli.main(['serve', '--port', '0']);"
        "print(code, sorted({'ray', 'torch', 'transformers'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "2 []"


def not_for_each_other(directory: Path) -> None:
    write_checkpoint(directory, random_model(vocab_size=1000))


def cut_short(directory: Path) -> None:
    weights = directory / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "options", "message"),
    [
        (lambda _: None, ["--quantization", "fp8"], "fp8 needs a GPU"),
        (lambda _: None, ["--quantization", "int8", "--cpu-kernels", "torch"], "needs our own kernels"),
        (lambda _: None, ["--attention", "triton"], "triton needs a GPU"),
        (lambda _: None, ["--draft-model", "nano"], "has vocab_size=8192, and the model 1200"),
        (cut_short, [], "cut short"),
        (not_for_each_other, [], "has 1200 tokens, but config.json says vocab_size=1000"),
        (lambda directory: (directory / "tokenizer.json").unlink(), [], "holds no tokenizer.json"),
    ],
)
def test_what_the_model_or_the_machine_contradicts_is_said_before_anything_starts(
    damage: Callable[[Path], None], options: list[str], message: str, tmp_path: Path
) -> None:
    directory = write_tokenizer(write_checkpoint(tmp_path, random_model(vocab_size=1200)))
    damage(directory)
    code = (
        "import sys; from deployments.command import cli; code = cli.main(sys.argv[1:]);"
        "print(code, sorted({'ray', 'torch', 'transformers'} & set(sys.modules)))"
    )
    options = ["--model", str(directory), "--device", "cpu", "--port", str(free_port()), *options]
    command = [sys.executable, "-c", code, "serve", *options]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    *lines, last = result.stdout.splitlines()
    failed = json.loads(lines[-1])
    assert (failed["event"], failed["level"]) == ("server.failed", "error")
    assert message in failed["message"]
    assert (last, result.stderr) == ("2 []", "")


def test_ready_message_can_be_pasted() -> None:
    message = ready_message(Settings(host="0.0.0.0", port=8123), 3.0, None)
    assert "http://127.0.0.1:8123/v1/completions" in message
    assert "http://[::1]:8000" in ready_message(Settings(host="::"), 3.0, None)


def test_ready_message_says_https(tmp_path: Path) -> None:
    """On this machine the certificate's names may not lead to it, but where it listens under a name they do."""
    own = {"ssl_certfile": tmp_path / "a.crt", "ssl_keyfile": tmp_path / "a.key"}
    message = ready_message(Settings(host="0.0.0.0", **own), 3.0, None)
    assert "at https://127.0.0.1:8000 (" in message
    assert "  curl --insecure https://127.0.0.1:8000/v1/completions " in message
    assert "  curl https://code.corp.test:8000/v1" in ready_message(Settings(host="code.corp.test", **own), 3.0, None)


def test_a_server_asks_itself_whatever_names_its_certificate_has(tmp_path: Path) -> None:
    own = make_certificate(tmp_path)
    with serving(PlainTextResponse("I am there"), certificate=own) as url:
        port = int(url.rpartition(":")[2])
        settings = Settings(port=port, ssl_certfile=own.chain, ssl_keyfile=own.key)
        assert answer(settings, "/health") == b"I am there"
        assert answer(Settings(port=port), "/health") is None


def test_ready_message_says_what_computes_and_why() -> None:
    first, _, _ = ready_message(Settings(), 3.0, {"path": "native", "reason": None, "products": "amx"}).partition("\n")
    assert first.endswith("/docs), with its forward pass in C by AMX. Try:")
    reason = "no C compiler is installed"
    first, _, _ = ready_message(Settings(), 3.0, {"path": "torch", "reason": reason, "products": None}).partition("\n")
    assert first.endswith(f"/docs), with its forward pass by PyTorch's operations ({reason}). Try:")
    assert said_of({"path": "torch", "reason": reason, "products": "amx"}) == {
        "forward": "torch",
        "forward_reason": reason,
        "forward_products": "amx",
    }
    assert said_of(None) == {}


ORPHANS = """
import subprocess, sys, time
from deployments.command.processes import adopt_orphans, descendants, end_descendants
adopt_orphans()
stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(600)"
parent = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
child = subprocess.Popen([sys.executable, "-c", parent, stubborn], stdout=subprocess.PIPE)
child.stdout.readline()
child.wait()
orphan, = descendants()
print(orphan, end_descendants(patience_s=0.5) == [orphan], descendants() == [])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="orphans are adopted on Linux only")
def test_a_stubborn_orphan_is_found_and_killed() -> None:
    result = subprocess.run([sys.executable, "-c", ORPHANS], capture_output=True, text=True, check=True, timeout=120)
    pid, *rest = result.stdout.split()
    assert rest == ["True", "True"]
    assert not Path(f"/proc/{pid}").exists()


def test_descendants_are_found_through_generations() -> None:
    code = "import subprocess, sys; p = subprocess.Popen(['sleep', '600']); print(p.pid, flush=True); p.wait()"
    child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        grandchild = int(child.stdout.readline())
        assert {child.pid, grandchild} <= set(descendants())
        assert descendants(child.pid) == [grandchild]
    finally:
        os.kill(grandchild, signal.SIGKILL)
        child.wait()
    wait_until(lambda: grandchild not in descendants(), "it is found after its end")
