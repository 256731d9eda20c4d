"""`rdeic-rt serve`: decoding and encoding over HTTP."""

from __future__ import annotations

import argparse
import errno
import importlib.util
import socket
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from . import options
from .console import Console

if TYPE_CHECKING:
    from ..codec import Codec
    from ..limits import Limits

_PACKAGES = ("fastapi", "uvicorn", "prometheus_client")


def add_parser(commands: options.Commands[argparse.ArgumentParser]) -> argparse.ArgumentParser:
    """Add the verb and its options."""
    parser = options.add_verb(
        commands,
        "serve",
        arguments="",
        summary="decode and encode over HTTP, with a viewer",
        description="""\
Serve the codec over HTTP until it is stopped: POST /v1/decode, /v1/encode and
/v1/info, GET /v1/bundles, /livez, /readyz, /metrics and /openapi.json, and a viewer
at /. Needs the extra 'serve'. SIGTERM ends it once running requests are answered.

There is no authentication and no TLS: put a proxy that has both in front of it
before others than this machine can reach it.""",
        epilog="""\
examples:
  rdeic-rt serve                                 then open http://127.0.0.1:8080
  curl --data-binary @photo.jpg localhost:8080/v1/encode > photo.rdc
  curl --data-binary @photo.rdc localhost:8080/v1/decode > photo.png""",
    )
    network = parser.add_argument_group("network")
    network.add_argument("--host", metavar="H", default="127.0.0.1", help="address to listen at. Default: 127.0.0.1")
    network.add_argument(
        "--port", metavar="N", type=options.whole_number(0, 65_535), default=8080, help="0 picks one. Default: 8080"
    )
    network.add_argument("--no-viewer", dest="viewer", action="store_false", help="serve no page at /")
    network.add_argument(
        "--web-modules",
        metavar="DIR",
        type=Path,
        help="folder that web/build_site.py made: the viewer can then decode in the browser too",
    )
    model = parser.add_argument_group("model")
    model.add_argument(
        "--bundle",
        metavar="B",
        action="append",
        help="folder or name of a bundle; may be repeated, the first encodes by default. Default: every installed one",
    )
    model.add_argument(
        "--no-verify",
        dest="verify",
        action="store_false",
        help="do not check the hashes of the bundles' files",
    )
    load = parser.add_argument_group("load")
    load.add_argument(
        "--workers",
        metavar="N",
        type=options.whole_number(1, 64),
        default=1,
        help="requests that are worked on at a time; on a CPU each takes all of it. Default: 1",
    )
    load.add_argument(
        "--queue",
        metavar="N",
        type=options.whole_number(0, 10_000),
        default=16,
        help="requests that may wait besides; more are answered with 503. Default: 16",
    )
    load.add_argument(
        "--max-body", metavar="N[k|M]", type=options.file_bytes, default=2**24, help="bytes of a request. Default: 16M"
    )
    load.add_argument(
        "--timeout",
        metavar="S",
        type=options.seconds,
        default=60.0,
        help="seconds from a request's last byte until its answer, and for its bytes to arrive. Default: 60",
    )
    options.add_device(parser)
    options.add_limits(parser, memory=True)
    options.add_messages(parser)
    parser.set_defaults(run=run)
    return parser


def run(args: argparse.Namespace, console: Console) -> int:
    """Serve until a signal ends it; return the exit code."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        from ..errors import BackendUnavailableError

        raise BackendUnavailableError(
            f"serving needs {', '.join(missing)}: install them with `pip install 'rdeic-rt[serve]'`"
        )
    import uvicorn

    from .. import bundle_search
    from ..serve import app, pages
    from ..serve.service import Service, Settings

    if args.web_modules and not (args.web_modules / pages.ENTRY_MODULE).is_file():
        where = str(args.web_modules / pages.ENTRY_MODULE)
        raise FileNotFoundError(errno.ENOENT, "no modules for --web-modules; web/build_site.py makes them", where)
    limits = options.limits_from(args)
    folders = tuple(map(bundle_search.find, args.bundle)) if args.bundle else tuple(bundle_search.default_first())
    settings = Settings(
        load=partial(_load, args, limits),
        bundle_folders=folders,
        limits=limits,
        workers=args.workers,
        queue=args.queue,
        max_body_bytes=args.max_body,
        timeout_s=args.timeout,
        viewer=args.viewer,
        web_modules=args.web_modules,
    )
    listening = listen(args.host, args.port)
    with listening:
        host, port = listening.getsockname()[:2]
        service = Service(settings)
        service.start()
        where = f"[{host}]" if ":" in host else host
        console.line(f"serving {', '.join(codec.bundle.name for codec in service.codecs)} at http://{where}:{port}")
        uvicorn.run(
            app.build(service),
            fd=listening.fileno(),
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=int(args.timeout) + 1,
        )
    return 0


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address.

    Raises:
        OSError: there is no such address, or another program listens there.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            # Connections inherit it. Without it the end of an answer waits for the client's delayed ACK, 40 ms.
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            listening.bind(address)
            listening.listen(128)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), f"{host}:{port}") from None
    return listening


def _load(args: argparse.Namespace, limits: Limits, folder: Path) -> Codec:
    return options.codec_from(args, limits, bundle=folder)
