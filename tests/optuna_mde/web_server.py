"""A web server in a thread, for files at URLs."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any


class Server:
    """Files at http, with a count of requests; 503 to those that it does not answer."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.answers = ("HEAD", "GET")
        self.requests = 0
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.requests += 1
                data = outer.files.get(self.path.strip("/"))
                down = self.command not in outer.answers
                status = 503 if down else 200 if data is not None else 404
                self.send_response(status)
                body = data if status == 200 and data is not None else b""
                self.send_header("Content-Length", str(len(body)))
                self.send_header("ETag", f'"{hash(body)}"')
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(body)

            do_HEAD = do_GET  # noqa: N815  http.server's own name

            def log_message(self, *args: Any) -> None:
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
