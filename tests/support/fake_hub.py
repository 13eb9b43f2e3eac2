"""A Hugging Face hub on loopback that holds one repository: the protocol `huggingface_hub` downloads with."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "c" * 40
TOKEN = "hf_right"


@contextmanager
def fake_hub(repository: str, directory: Path, *, gated: bool = False) -> Iterator[tuple[str, list[str]]]:
    """Serve `directory` as `repository`; the endpoint's address, and the paths that were asked for.

    gated: only requests with TOKEN get files. Other names do not exist.
    """
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.split("?")[0]
            asked.append(path)
            if f"/{repository}/" not in f"{path}/":
                self.refuse(404, "RepoNotFound")
            elif gated and self.headers.get("authorization") != f"Bearer {TOKEN}":
                self.refuse(403, "GatedRepo")
            elif path.startswith(f"/api/models/{repository}/tree/"):
                self.list_files()
            elif path.startswith(f"/api/models/{repository}"):
                if path.endswith(("/main", COMMIT, repository)):
                    self.describe()
                else:
                    self.refuse(404, "RevisionNotFound")
            else:
                self.send_file(directory / path.split(f"/resolve/{COMMIT}/")[-1])

        def describe(self) -> None:
            files = [{"rfilename": file.name, "size": file.stat().st_size} for file in sorted(directory.iterdir())]
            self.send(json.dumps({"_id": "1", "id": repository, "sha": COMMIT, "siblings": files}).encode(), {})

        def list_files(self) -> None:
            files = sorted(directory.iterdir())
            entries = [
                {
                    "type": "file",
                    "path": f.name,
                    "size": f.stat().st_size,
                    "oid": hashlib.sha1(f.read_bytes()).hexdigest(),
                }
                for f in files
            ]
            self.send(json.dumps(entries).encode(), {})

        def send_file(self, file: Path) -> None:
            if not file.is_file():
                self.refuse(404, "EntryNotFound")
                return
            body = file.read_bytes()
            self.send(body, {"ETag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Repo-Commit": COMMIT})

        def send(self, body: bytes, headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def refuse(self, status: int, code: str) -> None:
            self.send_response(status)
            self.send_header("X-Error-Code", code)
            self.send_header("X-Error-Message", code)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
