"""A page is there for whoever asks, however long collecting takes."""

from __future__ import annotations

import gzip
import queue
import re
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from monitoring.ready_page import ReadyPage
from tests.support.waiting import wait_until


def asked(page: ReadyPage, encoding: str = "") -> tuple[dict[str, str], bytes]:
    """Headers and body of its answer."""
    headers: list[tuple[str, str]] = []

    def start_response(status: str, given: list[tuple[str, str]], *_: object) -> Callable[[bytes], object]:
        assert status == "200 OK"
        headers.extend(given)
        return headers.append  # type: ignore[return-value]

    body = page({"HTTP_ACCEPT_ENCODING": encoding}, start_response)
    return dict(headers), b"".join(body)


class Collections:
    """What is collected next: a page, or an error. Collecting waits for it."""

    def __init__(self) -> None:
        self._next: queue.Queue[bytes | Exception] = queue.Queue()
        self.begun = threading.Semaphore(0)

    def put(self, *pages: bytes | Exception) -> None:
        for page in pages:
            self._next.put(page)

    def __call__(self) -> bytes:
        self.begun.release()
        page = self._next.get(timeout=120)
        if isinstance(page, Exception):
            raise page
        return page


@pytest.fixture
def collections() -> Collections:
    return Collections()


@pytest.fixture
def page(collections: Collections) -> Iterator[ReadyPage]:
    collections.put(b"first 1\n")
    page = ReadyPage(collections, period_s=0.001)
    yield page
    threading.Thread(target=collections.put, args=(b"last 1\n",) * 1000).start()
    page.close()


def begins(page: ReadyPage, text: bytes) -> bool:
    return asked(page)[1].startswith(text)


def test_who_asks_gets_the_last_page_while_the_next_is_collected(collections: Collections, page: ReadyPage) -> None:
    collections.begun.acquire()
    assert collections.begun.acquire(timeout=120), "nobody collects"
    assert begins(page, b"first 1\n")
    collections.put(b"second 2\n")
    wait_until(lambda: begins(page, b"second 2\n"), "the page is not renewed")


def test_the_last_page_stays_where_collecting_fails_and_is_renewed_after(
    collections: Collections, page: ReadyPage
) -> None:
    collections.put(OSError("no room"), ValueError("no file of metrics"))
    for _ in range(4):
        assert collections.begun.acquire(timeout=120)
    assert begins(page, b"first 1\n")
    collections.put(b"second 2\n")
    wait_until(lambda: begins(page, b"second 2\n"), "the page is not renewed")


def test_a_failure_is_told_once_until_it_is_over(caplog: pytest.LogCaptureFixture) -> None:
    page = ReadyPage(lambda: b"first 1\n", period_s=0.001)
    page.close()
    ended, turns = [OSError("one"), OSError("two"), b"a 1\n", b"b 1\n", OSError("three"), OSError("four")], []

    class Closed(threading.Event):
        def wait(self, timeout: float | None = None) -> bool:
            turns.append(timeout)
            return not ended

    def collect() -> bytes:
        page_or_error = ended.pop(0)
        if isinstance(page_or_error, Exception):
            raise page_or_error
        return page_or_error

    page._closed, page._collect, page._period_s = Closed(), collect, 7.0
    page._keep()
    assert turns == [7.0] * 7
    said = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [text.rpartition(": ")[2] for text in said] == ["one", "three"]
    assert begins(page, b"b 1\n")


def test_who_says_nothing_of_what_it_takes_gets_plain_text() -> None:
    page = ReadyPage(lambda: b"first 1\n", period_s=60.0)
    page.close()
    told: list[object] = []
    (body,) = page({}, lambda *answer: told.extend(answer))  # type: ignore[arg-type, return-value, misc]
    assert told == ["200 OK", [("Content-Type", "text/plain; version=0.0.4; charset=utf-8")]]
    assert body.startswith(b"first 1\n# HELP starcoder_page_collected_timestamp_seconds ")
    (compressed,) = page({"HTTP_ACCEPT_ENCODING": "gzip"}, lambda *answer: told.extend(answer))  # type: ignore[arg-type, return-value, misc]
    assert gzip.decompress(compressed) == body
    assert compressed[8] == 4, "by the fastest way (RFC 1952, XFL)"
    assert page._thread.daemon
    assert told[2:] == ["200 OK", [*told[1], ("Content-Encoding", "gzip")]]  # type: ignore[misc]


def test_it_says_when_it_was_collected(page: ReadyPage) -> None:
    _, body = asked(page)
    found = re.search(rb"^starcoder_page_collected_timestamp_seconds (\S+)$", body, re.MULTILINE)
    assert found is not None
    assert 0 <= time.time() - float(found[1]) < 120


def test_it_is_compressed_for_whoever_takes_that(page: ReadyPage) -> None:
    plain, body = asked(page)
    headers, compressed = asked(page, "deflate, gzip;q=0.5")
    assert "Content-Encoding" not in plain
    assert headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(compressed) == body


def test_the_first_failure_is_whoever_made_its() -> None:
    def fail() -> bytes:
        raise OSError("no directory")

    with pytest.raises(OSError, match="no directory"):
        ReadyPage(fail)
