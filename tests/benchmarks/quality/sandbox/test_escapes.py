"""Hostile programs, in each sandbox that this machine allows: what they try, and what becomes of it."""

from __future__ import annotations

import os
import socket
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from benchmarks.quality.sandbox.judge import SCRATCH, Sandbox, Verdict, judge
from benchmarks.quality.sandbox.program import MIB, Command, Limits, Program
from tests.support.descriptors import many_descriptors
from tests.support.waiting import wait_until

PATIENT = Limits(seconds=60)
"""Time for what fails at once, on a busy machine."""


def tried(sandbox: Sandbox, text: str, limits: Limits = PATIENT) -> Verdict:
    return judge(sandbox, Program(text, limits))


def came_through(sandbox: Sandbox, *attempts: str) -> list[str]:
    """Those statements that did what they were to do; all others raised OSError. One program tries all."""
    if tried(sandbox, "".join(map(_refused, attempts))).passed:
        return []
    return [attempt for attempt in attempts if not tried(sandbox, _refused(attempt)).passed]


def _folders() -> list[Path]:
    """Scratch folders of this process that are still there."""
    return list(Path(tempfile.gettempdir()).glob(f"{SCRATCH}{os.getpid()}-*"))


def _refused(attempt: str) -> str:
    return f"""
import ctypes, os, socket
libc = ctypes.CDLL(None)
try:
    {attempt}
except OSError:
    pass
else:
    raise AssertionError
"""


@pytest.fixture
def listening() -> Iterator[int]:
    """A port of this machine on which somebody answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def door(tmp_path: Path) -> Iterator[Path]:
    """A socket in the file system that everybody may open, like a container runtime's."""
    path = tmp_path / "door"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        path.chmod(0o777)
        server.listen()
        yield path


def test_harmless_code_runs(sandbox: Sandbox) -> None:
    text = "import math, random, hashlib, re, os\nassert os.getuid() != 0 and sorted([2, 1]) == [1, 2]\n"
    assert tried(sandbox, text) == Verdict(True, "passed")
    with many_descriptors():
        assert tried(sandbox, "assert 1 == 2\n") == Verdict(False, "failed: AssertionError")


def test_no_network(sandbox: Sandbox, listening: int, door: Path) -> None:
    nameless = f"\0starcoder-{uuid.uuid4().hex}"
    with socket.socket(socket.AF_UNIX) as server, socket.create_connection(("127.0.0.1", listening)):
        server.bind(nameless)
        server.listen()
        attempts = (
            f"socket.create_connection(('127.0.0.1', {listening}), 5)",
            "socket.create_connection(('192.0.2.1', 80), 0.1)",
            "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
            f"socket.socket(socket.AF_UNIX).connect({str(door)!r})",
            f"socket.socket(socket.AF_UNIX).connect({nameless!r})",
        )
        assert came_through(sandbox, *attempts) == []


def test_no_file_of_this_machine(sandbox: Sandbox, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("s3cret")
    secret.chmod(0o666)
    tmp_path.chmod(0o777)
    read = [f"open({str(path)!r}).read()" for path in (secret, __file__, "/etc/passwd", "/etc/shadow")]
    listed = [f"os.listdir({folder!r})" for folder in ("/home", "/root/.ssh", "/var/log", str(tmp_path))]
    name = f"starcoder-{uuid.uuid4().hex}"
    library = os.path.dirname(os.__file__)
    folders = ("/", "/usr", "/usr/bin", "/dev", "/dev/shm", "/etc", library, str(tmp_path))
    written = [f"open('{folder}/{name}', 'w')" for folder in folders] + [f"open({str(secret)!r}, 'a')"]
    assert came_through(sandbox, *read, *listed, *written) == []
    assert secret.read_text() == "s3cret"
    assert not any(Path(folder, name).exists() for folder in folders)


def test_a_namespace_of_ones_own_gives_nothing(sandbox: Sandbox, tmp_path: Path) -> None:
    """Where the kernel lets a program make one: what is read-only or not there stays so."""
    attempt = f"""libc.unshare(0x10000000 | 0x00020000)
    libc.mount(None, b'/', None, 0x20 | 0x1000, None)
    libc.mount(None, b'/usr', None, 0x20 | 0x1000, None)
    libc.umount2(b'/usr', 2)
    for name in ('/starcoder', '/usr/starcoder', {str(tmp_path / "x")!r}):
        try: open(name, 'w')
        except OSError: pass
        else: break
    else: raise OSError"""
    assert came_through(sandbox, attempt) == []


def test_secrets_of_the_environment_and_of_other_processes(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STARCODER_API_KEY", "s3cret")
    text = f"""
import os
assert 's3cret' not in str(os.environ)
for pid in ({os.getpid()}, os.getppid(), 1):
    try:
        assert b's3cret' not in open(f'/proc/{{pid}}/environ', 'rb').read()
    except OSError:
        pass
"""
    assert tried(sandbox, text).passed


def test_a_small_scratch_folder_and_no_more(sandbox: Sandbox) -> None:
    limits = Limits(seconds=60, scratch_bytes=4 * MIB)
    text = "open('a', 'w').write('x' * 1000)\nassert open('a').read() == 'x' * 1000\n"
    assert tried(sandbox, text, limits).passed
    one = "with open('a', 'wb') as file:\n    for _ in range(16): file.write(bytes(2**20))\n"
    assert tried(sandbox, one, limits).why in ("failed: OSError", "died")
    many = "for i in range(64):\n    with open(str(i), 'wb') as file: file.write(bytes(2**20))\n"
    assert tried(sandbox, many, limits).why in ("failed: OSError", "died")


def test_an_endless_loop_ends(sandbox: Sandbox) -> None:
    begun = time.monotonic()
    assert tried(sandbox, "while True: pass\n", Limits(seconds=0.2)).why == "timed out"
    assert tried(sandbox, "import time\ntime.sleep(1000)\n", Limits(seconds=0.2)).why == "timed out"
    assert time.monotonic() - begun >= 0.4  # it is the program's time, which begins when the sandbox has started


def test_memory_ends(sandbox: Sandbox) -> None:
    text = """
import mmap
for greedy in (lambda: bytearray(2**30), lambda: mmap.mmap(-1, 2**30), lambda: [bytearray(2**24) for _ in range(64)]):
    try:
        greedy()
    except (MemoryError, OSError):
        pass
    else:
        raise AssertionError
"""
    why = tried(sandbox, text, Limits(seconds=60, memory_bytes=256 * MIB)).why
    assert why in ("passed", "died")  # some end the process, some refuse it


def test_a_fork_bomb_fizzles_out(sandbox: Sandbox) -> None:
    text = """
import os, time
children = 0
try:
    for _ in range(100):
        if os.fork() == 0:
            time.sleep(1000)
        children += 1
except OSError:
    pass
assert children < 10
"""
    assert tried(sandbox, text).passed
    bomb = "import os\nwhile True:\n    try: os.fork()\n    except OSError: pass\n"
    assert tried(sandbox, bomb, Limits(seconds=0.3)).why == "timed out"


@pytest.mark.parametrize("then", ["pass", "time.sleep(1000)"])
def test_nobody_is_left(sandbox: Sandbox, then: str) -> None:
    """Who has a session of its own, and whose parent is gone, ends with the sandbox, whichever way that ends."""
    seconds = 10_000 + int.from_bytes(os.urandom(3), "big")
    text = f"""
import os, time
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execv('/bin/sleep', ['sleep', '{seconds}'])
    os._exit(0)
os.wait()
open('left', 'w').write('x')
{then}
"""
    assert tried(sandbox, text, Limits(seconds=60 if then == "pass" else 0.5)).passed == (then == "pass")

    def sleeping() -> bool:
        return any(process.info["cmdline"] == ["sleep", str(seconds)] for process in psutil.process_iter(["cmdline"]))

    wait_until(lambda: not sleeping(), "a process outlives its sandbox", timeout_s=30)
    assert not _folders()


def test_whoever_leaves_early_has_not_passed(sandbox: Sandbox) -> None:
    assert tried(sandbox, "import os\nos._exit(0)\n").why == "died"
    assert tried(sandbox, "import sys\nsys.exit(0)\n").why == "failed: SystemExit"
    assert tried(sandbox, "import builtins\nbuiltins.BaseException = int\nassert False\n").why == "died"


def test_a_verdict_cannot_be_guessed(sandbox: Sandbox) -> None:
    """Whichever pipe it is said into, and whatever becomes of the program afterwards."""
    text = """
import os
for word in {words!r}:
    for fd in range(64):
        try:
            os.write(fd, word)
        except OSError:
            pass
os._exit(0)
"""
    zeros = b"0" * 32 + b"\n"
    for words in ([b"passed\n", zeros], [b"ready\n", zeros], [b"missing: cc\n"], [b"x" * 9000]):
        assert not tried(sandbox, text.format(words=words)).passed


def test_the_nonce_is_not_in_the_process(sandbox: Sandbox) -> None:
    """Nothing that a program finds in the frames around it is what would say that it passed."""
    text = """
import os, sys
frame, found = sys._getframe(), set()
while frame is not None:
    for value in frame.f_locals.values():
        if isinstance(value, (str, bytes)) and len(value) < 100:
            found.add(value if isinstance(value, bytes) else value.encode())
    frame = frame.f_back
for value in found:
    for fd in range(3, 64):
        try:
            os.write(fd, value + b'\\n')
        except OSError:
            pass
os._exit(0)
"""
    assert not tried(sandbox, text).passed


def test_others_cannot_be_ended(sandbox: Sandbox) -> None:
    mine = os.getpid()
    text = f"import os, signal\nos.kill({mine}, 0)\n"
    assert tried(sandbox, text).why in ("failed: PermissionError", "failed: ProcessLookupError")
    everybody = "import os, signal\nos.kill(-1, signal.SIGKILL)\n"
    assert tried(sandbox, everybody).why in ("died", "failed: PermissionError", "passed", "failed: ProcessLookupError")
    assert tried(sandbox, "pass\n").passed


def test_no_powers(sandbox: Sandbox) -> None:
    """Each of these calls would give 0 to whoever may make it."""
    calls = (
        "libc.mount(b'none', b'/tmp', b'tmpfs', 0, None)",
        "libc.chroot(b'/usr')",
        "libc.setuid(0)",
        f"libc.ptrace(16, {os.getpid()}, 0, 0)",
        "libc.sethostname(b'x', 1)",
        "libc.setns(os.open('/proc/1/ns/mnt', 0), 0)",
    )
    assert came_through(sandbox, *(f"if {call} != 0: raise OSError" for call in calls)) == []


def test_a_command_has_to_be_there_and_to_exit_with_0(sandbox: Sandbox) -> None:
    def ran(text: str, *commands: Command) -> Verdict:
        return judge(sandbox, Program(text, PATIENT, file="program.sh", commands=commands))

    shell = Command(("bash", "program.sh"), 30)
    assert ran("true\n", shell) == Verdict(True, "passed")
    assert ran("exit 3\n", shell) == Verdict(False, "failed: CalledProcessError")
    assert ran("sleep 100\n", Command(("bash", "program.sh"), 0.2)) == Verdict(False, "timed out")
    with pytest.raises(RuntimeError, match="no-such-compiler is not installed"):
        ran("", Command(("no-such-compiler",), 1))


def test_a_command_cannot_speak_for_whoever_started_it(sandbox: Sandbox) -> None:
    """It is of the same user, whose pipes say that it has passed, or that a compiler is missing."""
    text = """
for fd in 3 4 5 6 7 8 9; do
    (: < /proc/$PPID/fd/$fd) 2> /dev/null && exit 0
done
exit 3
"""
    program = Program(text, PATIENT, file="program.sh", commands=(Command(("bash", "program.sh"), 30),))
    assert judge(sandbox, program) == Verdict(False, "failed: CalledProcessError")
