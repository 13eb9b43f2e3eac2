"""`starcoder complete`: ask a running server to complete or infill a file."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args

import httpx

from deployments.command.connection import API_KEY_VARIABLE, TIMEOUT, URL_VARIABLE, bearer, key_given, url_given
from deployments.errors import words_of
from deployments.options import OptionParser, number, positive
from deployments.protocol import CompletionMode
from model.config import ConfigError

DEFAULT_URL = "http://127.0.0.1:8000"
_PATH = "/v1/fim/completions"  # which cuts a file that is longer than the window, and knows code
_HTTPS = "of https://, SSL_CERT_FILE names the authorities where the certificate is not from one that all know"


def parser() -> OptionParser:
    parser = OptionParser(
        "starcoder complete",
        "Complete code with a running server: at the end of a file, or at the end of one of its lines.",
        epilog="Example: starcoder complete app.py --line 12",
    )
    parser.add_argument("file", nargs="?", type=Path, metavar="FILE", help="what to complete (default: standard input)")
    parser.add_argument("--line", metavar="N", type=positive, help="complete at the end of this line, counted from 1")
    parser.add_argument("--max-tokens", metavar="N", type=positive, default=128, help="(default: %(default)s)")
    parser.add_argument(
        "--mode",
        choices=get_args(CompletionMode),
        default="auto",
        help="where it ends: with its line, its block, as suits the place, or as the model likes (%(default)s)",
    )
    parser.add_argument(
        "--temperature", metavar="X", type=number, default=0.0, help="0 takes the likeliest (default: %(default)s)"
    )
    parser.add_argument("--url", metavar="URL", help=f"server (default: {URL_VARIABLE}, else {DEFAULT_URL}); {_HTTPS}")
    parser.add_argument(
        "--api-key-file",
        metavar="PATH",
        type=Path,
        help=f"file that holds an API key, alone (default: {API_KEY_VARIABLE})",
    )
    return parser


def run(arguments: Sequence[str]) -> int:
    """Print the completion as it comes. Raises ConfigError, and RuntimeError where no server answers, or it refuses."""
    options = parser().parse_args(list(arguments))
    name = "standard input" if options.file is None else str(options.file)
    prefix, suffix = split(_read(options.file, name), options.line, name)
    request = {
        "prompt": prefix,
        "suffix": suffix,
        "max_tokens": options.max_tokens,
        "temperature": options.temperature,
        "completion_mode": options.mode,
    }
    if options.file is not None:
        request["filename"] = options.file.name
    key = key_given(options.api_key_file, API_KEY_VARIABLE)
    anything, line_ended = False, True
    for piece in stream(url_given(options) or DEFAULT_URL, request, key):
        print(piece, end="", flush=True)
        anything = anything or not piece.isspace()
        line_ended = piece.endswith("\n")
    if not line_ended:
        print()
    if not anything:
        print("(the model adds nothing here)", file=sys.stderr)
    return 0


def _read(file: Path | None, name: str) -> str:
    if file is None and sys.stdin.isatty():
        print("Type what is to be completed, and Ctrl-D.", file=sys.stderr)
    try:
        text = sys.stdin.read() if file is None else file.read_text(encoding="utf-8")
        text.encode()  # standard input passes on bytes that are none, in the C locale
        return text
    except OSError as error:
        raise ConfigError(f"{name}: {error.strerror}") from error
    except UnicodeError as error:
        raise ConfigError(f"{name} is no text in UTF-8") from error


def split(text: str, line: int | None, name: str) -> tuple[str, str]:
    """What stands before and after the end of a line, counted from 1; without a line, all of it stands before.

    StarCoder answers a prompt that ends in a newline with the end of the text, so none is left at the end.
    Raises ConfigError where there is no such line.
    """
    if line is None:
        return text.rstrip("\n"), ""
    lines = list(io.StringIO(text))
    if line > len(lines):
        count = f"{len(lines)} line{'' if len(lines) == 1 else 's'}"
        raise ConfigError(f"{name} has {count}: there is no line {line}")
    cut = len("".join(lines[:line]).rstrip("\n"))
    return text[:cut], text[cut:]


def stream(url: str, request: dict[str, Any], key: str | None = None) -> Iterator[str]:
    """Pieces of the completion. Raises RuntimeError with the server's own message."""
    try:
        with (
            httpx.Client(base_url=url, timeout=TIMEOUT, headers=bearer(key)) as client,
            client.stream("POST", _PATH, json={**request, "stream": True}) as response,
        ):
            if response.status_code != 200 or "event-stream" not in response.headers.get("content-type", ""):
                raise RuntimeError(_refusal(response.status_code, response.read()))
            for line in response.iter_lines():
                data = line.removeprefix("data: ")
                if data == line or data == "[DONE]":
                    continue
                chunk = json.loads(data)
                if "error" in chunk:
                    raise RuntimeError(str(chunk["error"]["message"]))
                yield from (text for choice in chunk["choices"] if (text := choice["delta"].get("content")))
    except httpx.ConnectError as error:
        raise RuntimeError(f"no server at {url}: {error}. `starcoder serve` starts one") from error
    except (httpx.RemoteProtocolError, httpx.ReadError) as error:
        hint = " (if the server speaks TLS, say https://)" if url.startswith("http:") else ""
        raise RuntimeError(f"{url}: {error}{hint}") from error
    except httpx.HTTPError as error:
        raise RuntimeError(f"{url}: {words_of(error)}") from error


def _refusal(status: int, body: bytes) -> str:
    try:
        return str(json.loads(body)["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return f"the server answered {status}, and not as this program does"
