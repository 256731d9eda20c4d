"""The viewer, and what it needs to decode in its tab: the modules of web/rdeic-web and the files of the bundles.

Only what is listed when the server starts is served: the viewer's own parts, what bundles list, and a folder that
web/build_site.py made.
"""

from __future__ import annotations

import hashlib
import mimetypes
from http import HTTPStatus
from pathlib import Path
from typing import Final

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.types import Scope

from ..bundle_search import MANIFEST
from ..manifest import Bundle
from .service import Service

_VIEWER: Final = Path(__file__).parent / "viewer"
_VIEWER_PARTS = frozenset(path.name for path in _VIEWER.iterdir())
# What the viewer imports of a site; `rdeic-rt serve` looks for it when it starts.
ENTRY_MODULE = Path("modules", "rdeic-web", "src", "index.js")
# Of what a system may know otherwise, or not at all.
_TYPES = {".js": "text/javascript", ".mjs": "text/javascript", ".wasm": "application/wasm"}


def protection(web_modules: Path | None) -> list[tuple[bytes, bytes]]:
    """Return the headers that protect a browser; with modules, WebAssembly may run, and in several threads."""
    wasm = "" if web_modules is None else " 'wasm-unsafe-eval'; worker-src 'self'"
    policy = (
        f"default-src 'none'; script-src 'self'{wasm}; style-src 'self'; img-src 'self' blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    isolated = [(b"cross-origin-opener-policy", b"same-origin"), (b"cross-origin-embedder-policy", b"require-corp")]
    return [
        (b"content-security-policy", policy.encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        *([] if web_modules is None else isolated),
    ]


def add_viewer(app: FastAPI) -> None:
    """Add the page at ``/``, and its parts."""

    async def page(request: Request) -> Response:
        name = request.url.path.rpartition("/")[2] or "index.html"
        return FileResponse(_VIEWER / name, media_type=_TYPES.get(Path(name).suffix))

    for name in ("", *_VIEWER_PARTS - {"index.html"}):
        app.add_route(f"/{name}", page, include_in_schema=False)


def add_modules(app: FastAPI, service: Service, folder: Path) -> None:
    """Add the modules of a site at ``/modules``, and the bundles' files at the addresses that `bundle_url` returns."""
    for suffix, kind in _TYPES.items():
        mimetypes.add_type(kind, suffix)
    app.mount("/modules", _Modules(directory=folder / "modules"))

    @app.get("/bundles/{name}/{version}/{path:path}", include_in_schema=False)
    async def file(name: str, version: str, path: str) -> Response:
        bundle = service.named(name).bundle
        if version != _version(bundle) or (path != MANIFEST and path not in bundle.files):
            raise HTTPException(HTTPStatus.NOT_FOUND, f"bundle {name!r} has no such file")
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return FileResponse(bundle.folder / path, media_type="application/octet-stream", headers=headers)


def bundle_url(bundle: Bundle) -> str:
    """Return the address of a bundle's files, another one for another bundle.json, which has their hashes."""
    return f"/bundles/{bundle.name}/{_version(bundle)}/"


def _version(bundle: Bundle) -> str:
    return hashlib.sha256((bundle.folder / MANIFEST).read_bytes()).hexdigest()[:16]


class _Modules(StaticFiles):
    """Files that a browser keeps, and asks about each time: a site may be built anew at the same place."""

    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers["Cache-Control"] = "no-cache"
        return response
