"""Servers on this machine: files over HTTP, and as much of a Hugging Face Hub as reading a repository takes."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

REPOSITORY, REVISION = "org/micro", "v1"


@contextmanager
def serving(files: dict[str, bytes], moved: dict[str, str] | None = None) -> Iterator[str]:
    """Serve files by path; yield the address of the server.

    Args:
        files: path, beginning with a slash -> content. What lies under ``/org/micro/resolve/v1/`` is a repository too.
        moved: path -> where it is redirected to; "" if it is forbidden.
    """

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self.do_GET()

        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            if moved and moved.get(path) == "":
                self.send_error(403)
            elif moved and path in moved:
                self.send_response(302)
                self.send_header("Location", moved[path])
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif path in files:
                self._send(files[path])
            elif path == f"/api/models/{REPOSITORY}/revision/{REVISION}":
                self._send(json.dumps({"id": REPOSITORY, "sha": "0" * 40, "siblings": []}).encode())
            elif path.startswith(f"/api/models/{REPOSITORY}/tree/{REVISION}"):
                root = f"/{REPOSITORY}/resolve/{REVISION}/"
                inside = [
                    (name.removeprefix(root), content) for name, content in files.items() if name.startswith(root)
                ]
                rows = [{"type": "file", "path": name, "size": len(data), "oid": name} for name, data in inside]
                self._send(json.dumps(rows).encode())
            else:
                self.send_error(404)

        def _send(self, content: bytes) -> None:
            wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
            if wanted:
                first, last = int(wanted[1]), min(int(wanted[2]), len(content) - 1)
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{last}/{len(content)}")
                content = content[first : last + 1]
            else:
                self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
