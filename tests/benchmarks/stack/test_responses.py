"""The client's reader: whatever the pieces are in which an answer comes, it reads the same."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.stack.responses import ResponseReader, events

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
bodies = st.lists(st.binary(min_size=1, max_size=40), max_size=6)


def chunked(parts: list[bytes], extension: bytes = b"", trailer: bytes = b"") -> bytes:
    chunks = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension, part) for part in parts)
    return HEAD + chunks + b"0\r\n" + trailer + b"\r\n"


def cut(data: bytes, at: list[int]) -> list[bytes]:
    places = sorted({0, len(data), *(place % (len(data) + 1) for place in at)})
    return [data[a:b] for a, b in pairwise(places)]


def read(reader: ResponseReader, pieces: list[bytes]) -> bytes:
    parts, ends = [], []
    for piece in pieces:
        part, ended = reader.feed(piece)
        parts.append(part)
        ends.append(ended)
    assert ends == [False] * (len(pieces) - 1) + [True]
    return b"".join(parts)


@given(
    answers=st.lists(bodies, min_size=1, max_size=3),
    at=st.lists(st.integers(0, 2000), max_size=12),
    extension=st.sampled_from([b"", b";a=b"]),
    trailer=st.sampled_from([b"", b"x: y\r\n"]),
)
def test_chunks_cut_anywhere(answers: list[list[bytes]], at: list[int], extension: bytes, trailer: bytes) -> None:
    reader = ResponseReader()
    for parts in answers:
        assert read(reader, cut(chunked(parts, extension, trailer), at)) == b"".join(parts)
        assert reader.status == 200


@given(body=st.binary(max_size=200), at=st.lists(st.integers(0, 400), max_size=12))
def test_bodies_of_a_length_cut_anywhere(body: bytes, at: list[int]) -> None:
    answer = b"HTTP/1.1 429 Too Many Requests\r\ncontent-length:%d\r\n\r\n%s" % (len(body), body)
    reader = ResponseReader()
    assert read(reader, cut(answer, at)) == body
    assert reader.status == 429


@pytest.mark.parametrize(
    "answer", [HEAD + b"zz\r\n", HEAD + b"1\r\nab\r\n", chunked([b"a"]) + b"HTTP", b"hello\r\n\r\n"]
)
def test_what_is_no_answer(answer: bytes) -> None:
    with pytest.raises((ValueError, IndexError)):
        ResponseReader().feed(answer)


@given(
    texts=st.lists(st.text(alphabet="abc{}: ", min_size=1), max_size=8),
    at=st.lists(st.integers(0, 500), max_size=12),
)
def test_events_come_when_they_are_complete(texts: list[str], at: list[int]) -> None:
    whole = [f"data: {text}".encode() for text in texts]
    body = b"".join(event + b"\n\n" for event in [*whole, b"data: [DONE]"])
    pieces = cut(body, at)
    timed = [(float(sum(map(len, pieces[: number + 1]))), piece) for number, piece in enumerate(pieces)]
    found = list(events(timed))
    assert [event for _, event in found] == whole
    end = 0
    for time, event in found:
        end += len(event) + 2
        # with the first piece that reaches its end
        assert time == min(at for at, _ in timed if at >= end)
