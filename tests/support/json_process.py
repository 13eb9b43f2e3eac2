"""Programs that are asked in JSON over their standard input and answer over their standard output."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, Self

ANSWER_SECONDS = 120.0


class JsonProcess:
    """A program whose messages are read in the background, so that waiting for one has a time limit.

    Context manager: whatever happens, the program is gone afterwards.
    """

    def __init__(self, command: list[str], *, cwd: Path | None = None, env: Mapping[str, str] | None = None) -> None:
        self._command = command
        self.process = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._input: IO[bytes] = self.process.stdin
        self._messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._said: list[bytes] = []
        output, errors = self.process.stdout, self.process.stderr
        self._threads = [
            threading.Thread(target=self._read, args=(output,), daemon=True),
            threading.Thread(target=self._said.extend, args=(errors,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._input.close()
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for thread in self._threads:
            thread.join()

    def _read(self, output: IO[bytes]) -> None:
        try:
            while (message := self.read_message(output)) is not None:
                self._messages.put(message)
        finally:
            self._messages.put(None)

    def read_message(self, output: IO[bytes]) -> Any:
        """The next message; None at the end. Here, a line of JSON."""
        line = output.readline()
        return json.loads(line) if line else None

    def write_message(self, message: Any) -> None:
        self._input.write(json.dumps(message).encode() + b"\n")
        self._input.flush()

    def next_message(self, wanted: Callable[[Any], bool] = lambda _: True, seconds: float = ANSWER_SECONDS) -> Any:
        """The next message that is wanted; others are dropped. AssertionError when none comes for so long."""
        while True:
            try:
                message = self._messages.get(timeout=seconds)
            except queue.Empty:
                raise AssertionError(f"{self._command} does not answer: {self._last_words()}") from None
            assert message is not None, f"{self._command} ended: {self._last_words()}"
            if wanted(message):
                return message

    def _last_words(self) -> str:
        return b"".join(self._said[-40:]).decode(errors="replace")


class ClientError(Exception):
    """What another language's client raised. name: of its class; fields: what its error object says."""

    def __init__(self, fields: dict[str, Any]) -> None:
        super().__init__(f"{fields['name']}: {fields['message']}")
        self.name: str = fields["name"]
        self.message: str = fields["message"]
        self.fields = fields


class ClientDriver(JsonProcess):
    """One package of another environment, behind a driver of `tests/clients/drivers`."""

    _number = 0

    def call(self, call: str, **options: Any) -> Any:
        """What the driver's function answers; raises ClientError with what the package raised."""
        self._number += 1
        self.write_message({"id": self._number, "call": call, "options": options})
        # A test that was given up leaves its answer behind.
        answer = self.next_message(lambda message: message["id"] == self._number)
        if "error" in answer:
            raise ClientError(answer["error"])
        return answer["result"]


class TabbyAgent(JsonProcess):
    """tabby-agent as Tabby's older plugins run it: `[number, {"func", "args"}]` line by line."""

    def ask(self, number: int, function: str, *arguments: Any) -> Any:
        self.start(number, function, *arguments)
        return self.next_message(lambda message: message[0] == number)[1]

    def start(self, number: int, function: str, *arguments: Any) -> None:
        """The same without waiting for an answer."""
        self.write_message([number, {"func": function, "args": list(arguments)}])


class LanguageServer(JsonProcess):
    """The client's side of the Language Server Protocol over stdio.

    Source: https://microsoft.github.io/language-server-protocol, "Base protocol".
    """

    _number = 0

    def read_message(self, output: IO[bytes]) -> Any:
        length = 0
        while header := output.readline().strip():
            name, _, value = header.partition(b":")
            if name.lower() == b"content-length":
                length = int(value)
        return json.loads(output.read(length)) if length else None

    def write_message(self, message: Any) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._input.write(b"Content-Length: %d\r\n\r\n" % len(body) + body)
        self._input.flush()

    def notify(self, method: str, **params: Any) -> None:
        self.write_message({"method": method, "params": params})

    def request(self, method: str, **params: Any) -> Any:
        """The result; what the server says meanwhile is dropped."""
        self._number += 1
        self.write_message({"id": self._number, "method": method, "params": params})
        answer = self.next_message(lambda message: message.get("id") == self._number and "method" not in message)
        assert "error" not in answer, answer
        return answer["result"]
