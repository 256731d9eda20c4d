"""A static server for tests in a browser: files of folders, with chosen headers and failures; it records answers."""

from __future__ import annotations

import gzip
import http.server
import mimetypes
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}

# What docs/web.md asks of a page.
CSP = "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; connect-src 'self'; img-src 'self' blob:"
CSP_WEBGPU = CSP.replace("'wasm-unsafe-eval'", "'wasm-unsafe-eval' 'unsafe-eval'")
ISOLATION = {"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Embedder-Policy": "require-corp"}

PAGE = b'<!doctype html><meta charset="utf-8"><title>test</title><script type="module" src="/page.js"></script>'
SCRIPT = b'import * as rdeic from "/modules/rdeic-web/src/index.js"; globalThis.rdeic = rdeic;'


@dataclass
class Site:
    """What a server serves.

    Attributes:
        folders: prefix of paths -> folder.
        contents: path -> content, or a status to answer with; takes precedence over folders.
        headers: sent with everything.
        compress: send gzip where it is accepted.
        hang: paths of which only half is sent until `release` is set.
        sent: (path, bytes of the body as sent) of every answer.
        address: of the server, while it runs.
    """

    folders: Mapping[str, Path]
    contents: dict[str, bytes | int] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    compress: bool = False
    hang: set[str] = field(default_factory=set)
    release: threading.Event = field(default_factory=threading.Event)
    sent: list[tuple[str, int]] = field(default_factory=list)
    address: str = ""

    def content(self, path: str) -> bytes | int:
        """Return what there is at a path, or the status to answer with."""
        fixed = {"/": PAGE, "/page.js": SCRIPT, "/favicon.ico": b"", **self.contents}
        if path in fixed:
            return fixed[path]
        for prefix, folder in self.folders.items():
            inside = PurePosixPath(path.removeprefix(prefix))
            if path.startswith(prefix) and ".." not in inside.parts and (folder / inside).is_file():
                return (folder / inside).read_bytes()
        return 404

    def sent_bytes(self, prefix: str) -> int:
        """Return the number of bytes that were sent of paths with this prefix."""
        return sum(count for path, count in self.sent if path.startswith(prefix))


@contextmanager
def serving(site: Site) -> Iterator[Site]:
    """Serve a site on a free port of this machine."""

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = self.path.split("?")[0].replace("%2B", "+")
            content = site.content(path)
            status, body = (content, b"") if isinstance(content, int) else (200, content)
            self.send_response(status)
            for name, value in site.headers.items():
                self.send_header(name, value)
            kind = TYPES.get(PurePosixPath(path).suffix) or mimetypes.guess_type(path)[0]
            self.send_header("Content-Type", "text/html" if path.endswith("/") else kind or "application/octet-stream")
            if site.compress and "gzip" in self.headers.get("Accept-Encoding", ""):
                body = gzip.compress(body, 9)
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if path in site.hang:
                self.wfile.write(body[: len(body) // 2])
                site.release.wait()
                self.close_connection = True
                return
            site.sent.append((path, len(body)))
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a browser that goes away is part of tests

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    site.address = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        site.release.set()
        server.shutdown()
        server.server_close()
        thread.join()
