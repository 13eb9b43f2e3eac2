"""`starcoder complete`: ask a running server to complete or infill a file."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from deployments.command.connection import API_KEY_VARIABLE, TIMEOUT, URL_VARIABLE, bearer, key_given, url_given

DEFAULT_URL = "http://127.0.0.1:8000"
_HTTPS = "of https://, SSL_CERT_FILE names the authorities where the certificate is not from one that all know"


def run(arguments: Sequence[str]) -> int:
    """Print the completion as it comes; exit code 1 where the server refuses or is not there."""
    options = _parser().parse_args(list(arguments))
    try:
        text = sys.stdin.read() if options.file is None else options.file.read_text()
    except (OSError, UnicodeDecodeError) as error:
        print(f"starcoder complete: {options.file or 'standard input'}: {error}", file=sys.stderr)
        return 1
    prefix, suffix = split(text, options.line)
    request = {"prompt": prefix, "max_tokens": options.max_tokens, "temperature": options.temperature}
    if suffix:
        request["suffix"] = suffix
    key = key_given(options.api_key_file, API_KEY_VARIABLE)
    try:
        for piece in stream(url_given(options) or DEFAULT_URL, request, key):
            print(piece, end="", flush=True)
    except RuntimeError as error:
        print(f"starcoder complete: {error}", file=sys.stderr)
        return 1
    print()
    return 0


def split(text: str, line: int | None) -> tuple[str, str]:
    """What stands before and after the end of a line, counted from 1; without a line, all of it stands before.

    StarCoder answers a prompt that ends in a newline with the end of the text, so none is left at the end.
    """
    if line is None:
        return text.rstrip("\n"), ""
    lines = text.splitlines(keepends=True)
    before = "".join(lines[:line])
    cut = len(before.rstrip("\r\n"))
    return text[:cut], text[cut:]


def stream(url: str, request: dict[str, Any], key: str | None = None) -> Iterator[str]:
    """Pieces of the completion. Raises RuntimeError with the server's own message."""
    try:
        with (
            httpx.Client(base_url=url, timeout=TIMEOUT, headers=bearer(key)) as client,
            client.stream("POST", "/v1/completions", json={**request, "stream": True}) as response,
        ):
            if response.status_code != 200:
                response.read()
                raise RuntimeError(_message(response.json()))
            for line in response.iter_lines():
                data = line.removeprefix("data: ")
                if data == line or data == "[DONE]":
                    continue
                chunk = json.loads(data)
                if "error" in chunk:
                    raise RuntimeError(_message(chunk))
                yield from (choice["text"] for choice in chunk["choices"])
    except (httpx.RemoteProtocolError, httpx.ReadError) as error:
        hint = " (if the server speaks TLS, say https://)" if url.startswith("http:") else ""
        raise RuntimeError(f"{url}: {error}{hint}") from error
    except (httpx.HTTPError, ValueError) as error:
        raise RuntimeError(f"{url}: {error or type(error).__name__}") from error


def _message(body: Any) -> str:
    return str(body.get("error", {}).get("message", body)) if isinstance(body, dict) else str(body)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("starcoder complete", description="Complete code with a running server.")
    parser.add_argument("file", nargs="?", type=Path, help="file to complete (default: standard input)")
    parser.add_argument("--line", type=int, help="infill at the end of this line, counted from 1")
    parser.add_argument("--max-tokens", type=int, default=64, help="most new tokens (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.0, help="0 is greedy (default: %(default)s)")
    parser.add_argument("--url", help=f"server (default: {URL_VARIABLE}, else {DEFAULT_URL}); {_HTTPS}")
    parser.add_argument(
        "--api-key-file", type=Path, help=f"file that holds an API key, alone (default: {API_KEY_VARIABLE})"
    )
    return parser
