"""The routes (docs/http.md). Every error is `problems.Problem`, and nothing that a client sends is used as a path."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from http import HTTPStatus
from io import BytesIO
from typing import Annotated, Any, Literal

from fastapi import FastAPI, Header, HTTPException, Query, Request
from fastapi.responses import JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel
from starlette.types import ASGIApp, Message, Receive, Scope, Send

import rdeic_rt

from .. import container, pixels
from ..codec import Codec
from ..decode_options import DecodeOptions
from ..limits import Size
from ..manifest import rate_from
from . import compare as other_codecs
from . import pages, problems, telemetry
from .problems import BodyTooLargeError, SlowBodyError, documented
from .service import Service, Settings

RDC = "image/x-rdc"
# What an image can be sent as, and how `pixels.write_image` calls it; the first is for clients that take anything.
_IMAGE_TYPES = {"image/png": "png", "image/jpeg": "jpeg", "image/webp": "webp"}
_BODY_ERRORS = (
    HTTPStatus.BAD_REQUEST,
    HTTPStatus.REQUEST_TIMEOUT,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE,
    HTTPStatus.UNPROCESSABLE_ENTITY,
    HTTPStatus.INTERNAL_SERVER_ERROR,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
)


class FileFacts(BaseModel):
    """What the header of an .rdc file says."""

    width: int
    height: int
    bytes: int
    bpp: float
    rate: int
    label: str | None
    bundle: str | None
    model_id: str
    crc32c: str
    icc_bytes: int
    exif_bytes: int


class RateFacts(BaseModel):
    """A rate of a bundle; ``steps`` is None for a family without."""

    index: int
    label: str
    bpp: float
    steps: int | None


class BundleFacts(BaseModel):
    """A bundle that is served; ``url``: where its files are, for a browser that decodes, if they are."""

    name: str
    family: str
    licence: str
    default_rate: int
    backend: str
    encodes: bool
    model_ids: list[str]
    url: str | None
    rates: list[RateFacts]


def build(service: Service) -> FastAPI:
    """Return the application that serves a service which was started; it closes it when it ends."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        await asyncio.to_thread(service.close)

    app = FastAPI(
        title="rdeic-rt",
        version=rdeic_rt.__version__,
        summary="Extreme image compression with a diffusion decoder.",
        lifespan=lifespan,
        docs_url=None,
        redoc_url=None,
    )
    problems.install(app)
    app.add_middleware(_Wrapped, service=service)
    _add_work(app, service)
    _add_facts(app, service)
    _add_health(app, service)
    if service.settings.viewer:
        pages.add_viewer(app)
    if service.settings.web_modules is not None:
        pages.add_modules(app, service, service.settings.web_modules)
    problems.describe(app.openapi())  # which keeps the document
    return app


class _Wrapped:
    """Counts the answers of an application and gives them the headers that protect a browser."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._metrics = app, service.metrics
        self._protection = pages.protection(service.settings.web_modules)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as the application does."""

        async def send_marked(message: Message) -> None:
            if message["type"] == "http.response.start":
                route = getattr(scope.get("route"), "path", "") or "/"
                self._metrics.requests.labels(route, message["status"]).inc()
                message["headers"] = [*message.get("headers", []), *self._protection]
            await send(message)

        await self._app(scope, receive, send_marked if scope["type"] == "http" else send)


def _add_work(app: FastAPI, service: Service) -> None:
    @app.post(
        "/v1/decode",
        response_class=Response,
        openapi_extra=_body(RDC),
        responses={
            200: {"description": "The image.", "content": {kind: {} for kind in _IMAGE_TYPES}},
            304: {"description": "The client has this image already."},
            **documented(HTTPStatus.NOT_ACCEPTABLE, HTTPStatus.CONFLICT, *_BODY_ERRORS),
        },
    )
    async def decode(
        request: Request,
        sharpness: Annotated[float, Query(ge=0, le=10, allow_inf_nan=False)] = 1.0,
        seed: Annotated[int | None, Query(ge=0, lt=2**64)] = None,
        steps: Annotated[int | None, Query(ge=1, le=1000)] = None,
        preview: bool = False,
        allow_partial: bool = False,
        accept: Annotated[str, Header()] = "*/*",
        if_none_match: Annotated[str, Header()] = "",
    ) -> Response:
        """Turn an .rdc file back into an image: PNG, JPEG or WebP, as ``Accept`` asks for."""
        kind = preferred(accept)
        if kind is None:
            raise HTTPException(HTTPStatus.NOT_ACCEPTABLE, f"images are sent as {', '.join(_IMAGE_TYPES)}")
        options = DecodeOptions(sharpness, seed, steps, preview, allow_partial)

        def work(data: bytes) -> Response:
            file = container.parse(data, service.settings.limits, allow_partial=allow_partial)
            codec = service.codec_for(file.header)
            etag = _etag(data, options, kind, codec)
            headers = {"ETag": etag, "Cache-Control": "private, no-cache", "Vary": "Accept"}
            if etag in if_none_match or if_none_match.strip() == "*":
                return Response(status_code=HTTPStatus.NOT_MODIFIED, headers=headers)
            with telemetry.span("rdeic_rt.decode", _attributes(codec, file.header.size, len(data))) as times:
                decoded = codec.decode_with_metadata(data, options)
                encoded = BytesIO()
                pixels.write_image(encoded, decoded.image, decoded.metadata, _IMAGE_TYPES[kind])
            _book(service, "/v1/decode", times, file.header.size, len(encoded.getvalue()))
            if decoded.cut:
                headers["Rdc-Complete-Slices"] = f"{decoded.cut.complete_slices}/{decoded.cut.n_slices}"
            headers["Server-Timing"] = telemetry.server_timing(times)
            return Response(encoded.getvalue(), media_type=kind, headers=headers)

        return await _worked(service, request, work)

    @app.post(
        "/v1/encode",
        response_class=Response,
        openapi_extra=_body("image/*"),
        responses={
            200: {"description": "The .rdc file.", "content": {RDC: {}}},
            **documented(HTTPStatus.NOT_FOUND, HTTPStatus.CONFLICT, *_BODY_ERRORS),
        },
    )
    async def encode(
        request: Request,
        rate: Annotated[str | None, Query(max_length=64)] = None,
        target_bytes: Annotated[int | None, Query(ge=1, le=2**40)] = None,
        target_bpp: Annotated[float | None, Query(gt=0, le=100, allow_inf_nan=False)] = None,
        bundle: Annotated[str | None, Query(max_length=200)] = None,
        strip: bool = False,
    ) -> Response:
        """Compress an image of any format that `rdeic-rt encode` reads."""
        codec = service.named(bundle)
        chosen = rate_from(rate)

        def work(data: bytes) -> Response:
            with telemetry.span("rdeic_rt.encode", {"rdeic_rt.bundle": codec.bundle.name}) as times:
                image, metadata = pixels.read_image(BytesIO(data), service.settings.limits)
                if strip:
                    image, metadata = pixels.stripped(image, metadata)
                file = codec.encode(image, chosen, target_bytes=target_bytes, target_bpp=target_bpp, metadata=metadata)
            size = Size(*image.shape[:2])
            _book(service, "/v1/encode", times, size, len(file))
            header = container.parse(file).header
            headers = {
                "Rdc-Rate": codec.bundle.rate_of(header.model_id, header.rate).label,
                "Rdc-Bpp": f"{8 * len(file) / (size.width * size.height):.4f}",
                "Server-Timing": telemetry.server_timing(times),
            }
            return Response(file, media_type=RDC, headers=headers)

        return await _worked(service, request, work)

    @app.post(
        "/v1/compare",
        response_class=Response,
        openapi_extra=_body("image/*"),
        responses={
            200: {"description": "The decoded image.", "content": {"image/png": {}}},
            **documented(*_BODY_ERRORS),
        },
    )
    async def compare(
        request: Request,
        codec: Literal["jpeg", "webp", "avif"],
        target_bytes: Annotated[int, Query(ge=1, le=2**40)],
    ) -> Response:
        """Return what JPEG, WebP or AVIF make of an image in at most so many bytes, scaled down where they must."""

        def work(data: bytes) -> Response:
            image, _ = pixels.read_image(BytesIO(data), service.settings.limits)
            compared = other_codecs.compare(image, codec, target_bytes)
            encoded = BytesIO()
            pixels.write_image(encoded, compared.image)
            headers = {
                "Rdc-Bytes": str(compared.n_bytes),
                "Rdc-Quality": str(compared.quality),
                "Rdc-Scale": f"{compared.scale:.3f}",
            }
            return Response(encoded.getvalue(), media_type="image/png", headers=headers)

        return await _worked(service, request, work)


def _add_facts(app: FastAPI, service: Service) -> None:
    @app.post("/v1/info", openapi_extra=_body(RDC), responses=documented(*_BODY_ERRORS))
    async def info(request: Request) -> FileFacts:
        """Tell what the header of an .rdc file says; the checksum is verified, and nothing is decoded."""
        async with service.admitted():
            data = await _body_of(request, service.settings)
        file = container.parse(data, service.settings.limits)
        header = file.header
        made_with = [codec.bundle for codec in service.codecs if codec.bundle.has(header.model_id, header.rate)]
        return FileFacts(
            width=header.size.width,
            height=header.size.height,
            bytes=len(data),
            bpp=8 * len(data) / (header.size.width * header.size.height),
            rate=header.rate,
            label=made_with[0].rate_of(header.model_id, header.rate).label if made_with else None,
            bundle=made_with[0].name if made_with else None,
            model_id=header.model_id.hex(),
            crc32c=f"{file.crc:08x}",
            icc_bytes=len(file.metadata.icc or b""),
            exif_bytes=len(file.metadata.exif or b""),
        )

    @app.get("/v1/bundles")
    async def bundles() -> list[BundleFacts]:
        """List the bundles that are served, the default first, and their rates."""
        return [_bundle_facts(codec, service.settings) for codec in service.codecs]


def _add_health(app: FastAPI, service: Service) -> None:
    @app.get("/livez")
    async def livez() -> dict[str, str]:
        """Tell that the process answers."""
        return {"status": "live"}

    @app.get("/readyz", responses=documented(HTTPStatus.SERVICE_UNAVAILABLE))
    async def readyz() -> Response:
        """Tell whether a request would be taken: bundles have proved themselves, and the queue has a place."""
        if not service.ready or service.draining or service.is_full:
            raise problems.BusyError("the queue is full" if service.is_full else "not ready")
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Return the metrics in Prometheus's text format."""
        for codec in service.codecs:
            peak = codec.peak_device_bytes()
            if peak is not None:
                service.metrics.device_bytes.labels(codec.bundle.name).set(peak)
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


async def _worked(service: Service, request: Request, work: Callable[[bytes], Response]) -> Response:
    """Read the body and answer with what a worker makes of it."""
    async with service.admitted():
        data = await _body_of(request, service.settings)
        service.metrics.bytes_in.labels(request.scope["route"].path).inc(len(data))
        return await service.run(partial(work, data), request.is_disconnected)


async def _body_of(request: Request, settings: Settings) -> bytes:
    """Return a request's body.

    Of one that is too long, as much again is read and dropped: a client that is still sending would find its connection
    reset, and no answer.

    Raises:
        BodyTooLargeError: it is longer than is allowed, or says so.
        SlowBodyError: it did not arrive in time.
    """
    allowed = settings.max_body_bytes
    length = request.headers.get("content-length", "")
    announced = int(length) if length.isdecimal() else 0
    body, received = bytearray(), 0
    try:
        async with asyncio.timeout(settings.timeout_s):
            async for chunk in request.stream():
                received += len(chunk)
                if max(received, announced) <= allowed:
                    body += chunk
                elif received > 2 * allowed:
                    break
    except TimeoutError:
        if received <= allowed:
            raise SlowBodyError(f"the body did not arrive within {settings.timeout_s:g} s") from None
    if max(received, announced) > allowed:
        raise BodyTooLargeError(f"a body of more than {allowed} bytes, which are allowed")
    return bytes(body)


def preferred(accept: str) -> str | None:
    """Return the type of image that an ``Accept`` header likes best; None if it takes none of those there are."""
    quality = dict.fromkeys(_IMAGE_TYPES, 0.0)
    specific = dict.fromkeys(_IMAGE_TYPES, -1)
    for item in accept.lower().split(",") if accept.strip() else ["*/*"]:
        wanted, *parameters = (part.strip() for part in item.split(";"))
        q = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                try:
                    q = min(1.0, max(0.0, float(value)))
                except ValueError:
                    q = 0.0
        for kind in _IMAGE_TYPES:
            rank = {kind: 2, "image/*": 1, "*/*": 0}.get(wanted, -1)
            if rank > specific[kind]:
                quality[kind], specific[kind] = q, rank
    best = max(quality, key=lambda kind: quality[kind])
    return best if quality[best] > 0 else None


def _etag(data: bytes, options: DecodeOptions, kind: str, codec: Codec) -> str:
    """Return what changes with the image: the file, how it is decoded, by what, and as what it is sent."""
    backend = ",".join(map(str, codec.description().values()))
    facts = (rdeic_rt.__version__, codec.bundle.name, backend, kind, repr(options), hashlib.sha256(data).hexdigest())
    return f'"{hashlib.sha256("|".join(facts).encode()).hexdigest()[:32]}"'


def _attributes(codec: Codec, size: Size, n_bytes: int) -> dict[str, Any]:
    return {
        "rdeic_rt.bundle": codec.bundle.name,
        "rdeic_rt.width": size.width,
        "rdeic_rt.height": size.height,
        "rdeic_rt.bytes": n_bytes,
    }


def _book(service: Service, route: str, times: Any, size: Size, bytes_out: int) -> None:
    for name, ms in times.total_ms().items():
        service.metrics.seconds.labels(route, name).observe(ms / 1000)
    service.metrics.pixels.labels(route).inc(size.width * size.height)
    service.metrics.bytes_out.labels(route).inc(bytes_out)


def _bundle_facts(codec: Codec, settings: Settings) -> BundleFacts:
    bundle = codec.bundle
    return BundleFacts(
        name=bundle.name,
        family=bundle.family,
        licence=bundle.licence,
        default_rate=bundle.default_rate,
        backend=codec.backend,
        encodes=bundle.encodes,
        model_ids=sorted({rate.model_id.hex() for rate in bundle.rates}),
        url=None if settings.web_modules is None else pages.bundle_url(bundle),
        rates=[
            RateFacts(
                index=rate.index,
                label=rate.label,
                bpp=rate.bpp,
                steps=None if rate.schedule is None else bundle.schedules[rate.schedule].n_steps,
            )
            for rate in bundle.rates
        ],
    )


def _body(media_type: str) -> dict[str, Any]:
    """Return what OpenAPI is told of a body that is read as it is."""
    schema = {"type": "string", "format": "binary"}
    return {"requestBody": {"required": True, "content": {media_type: {"schema": schema}}}}
