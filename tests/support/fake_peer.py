"""A server of completions that needs nothing but Python: it writes so many words as are asked for, after a pause.

`python fake_peer.py PORT MODE FILE`: `well`; `refuses` every third stream; `dies` instead of serving. What it starts
below it outlives it, unless somebody ends it; FILE gets that process id.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

PAUSE_S = 0.005


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    mode = "well"
    streams = count(1)

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not asked.get("stream"):
            self._whole(200, {"choices": [{"text": " a", "finish_reason": "length"}]})
        elif self.mode == "refuses" and next(self.streams) % 3 == 0:
            self._whole(400, {"error": "not today"})
        else:
            self._stream(asked["max_tokens"])

    def _whole(self, status: int, body: dict[str, Any]) -> None:
        written = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(written)))
        self.end_headers()
        self.wfile.write(written)

    def _stream(self, tokens: int) -> None:
        self.send_response(200)
        self.send_header("transfer-encoding", "chunked")
        self.end_headers()
        for number in range(1, tokens + 1):
            time.sleep(PAUSE_S)
            self._event({"choices": [{"text": " a", "finish_reason": "length" if number == tokens else None}]})
        self._event({"choices": [], "usage": {"completion_tokens": tokens}})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, body: dict[str, Any]) -> None:
        self._chunk(b"data: " + json.dumps(body).encode() + b"\n\n")

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))

    def log_message(self, format: str, *arguments: Any) -> None:
        pass


def main() -> None:
    Handler.mode = sys.argv[2]
    dies = Handler.mode == "dies"
    left = subprocess.Popen(["sleep", "600"], start_new_session=not dies)
    Path(sys.argv[3]).write_text(str(left.pid))
    if dies:
        raise SystemExit("ValueError: no such model in /opt/secret/place/model")
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    server.serve_forever()


if __name__ == "__main__":
    main()
