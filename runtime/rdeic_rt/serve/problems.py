"""Errors as ``application/problem+json`` (RFC 9457), each with the status that it stands for."""

from __future__ import annotations

import logging
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from ..errors import (
    BackendError,
    BundleDecodesOnlyError,
    BundleError,
    BundleMismatchError,
    BundleNotFoundError,
    CancelledError,
    FileFormatError,
    ImageError,
    ImageTooLargeError,
    LimitExceededError,
    NotRdcError,
    RdeicError,
    UnsupportedVersionError,
)

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 1
EXIT_USAGE = 2

# The first class that an error is of decides.
_STATUS: tuple[tuple[type[Exception], HTTPStatus], ...] = (
    (ImageTooLargeError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (LimitExceededError, HTTPStatus.REQUEST_ENTITY_TOO_LARGE),
    (NotRdcError, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (UnsupportedVersionError, HTTPStatus.UNSUPPORTED_MEDIA_TYPE),
    (FileFormatError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (ImageError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (BundleMismatchError, HTTPStatus.CONFLICT),
    (BundleDecodesOnlyError, HTTPStatus.CONFLICT),
    (BundleNotFoundError, HTTPStatus.NOT_FOUND),
    (BundleError, HTTPStatus.INTERNAL_SERVER_ERROR),
    (BackendError, HTTPStatus.SERVICE_UNAVAILABLE),
    (CancelledError, HTTPStatus.GATEWAY_TIMEOUT),
    (ValueError, HTTPStatus.BAD_REQUEST),
)

_log = logging.getLogger("rdeic_rt.serve")


class Problem(BaseModel):
    """What an error looks like.

    Attributes:
        type: the error's class, as in Python.
        title: the status in words.
        status: the status as a number.
        detail: one line on what is wrong.
        exit_code: what `rdeic-rt` would return.
    """

    type: str = Field(examples=["ChecksumError"])
    title: str = Field(examples=["Unprocessable Entity"])
    status: int = Field(examples=[422])
    detail: str
    exit_code: int = Field(examples=[4])


class BusyError(RdeicError):
    """The queue is full, or the server is about to end."""

    exit_code = 6


class BodyTooLargeError(LimitExceededError):
    """The body of a request is longer than is allowed."""


class SlowBodyError(RdeicError):
    """The body of a request did not arrive in time."""

    exit_code = 3


def status_of(error: Exception) -> HTTPStatus:
    """Return the status that an error stands for."""
    if isinstance(error, BusyError):
        return HTTPStatus.SERVICE_UNAVAILABLE
    if isinstance(error, SlowBodyError):
        return HTTPStatus.REQUEST_TIMEOUT
    found = (status for kind, status in _STATUS if isinstance(error, kind))
    return next(found, HTTPStatus.INTERNAL_SERVER_ERROR)


def response(kind: str, status: int, detail: str, exit_code: int, headers: dict[str, str] | None = None) -> Response:
    """Return the answer that tells of an error."""
    problem = Problem(
        type=kind,
        title=HTTPStatus(status).phrase,
        status=int(status),
        detail=" ".join(detail.split()),
        exit_code=exit_code,
    )
    return JSONResponse(problem.model_dump(), status, headers, media_type=MEDIA_TYPE)


def of(error: Exception) -> Response:
    """Return the answer that tells of an error; of one that is a bug, nothing but its class."""
    status = status_of(error)
    headers = {}
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        headers["Retry-After"] = str(RETRY_AFTER_S)
    if isinstance(error, (BodyTooLargeError, SlowBodyError)):
        headers["Connection"] = "close"  # what is left of the body is not read
    if isinstance(error, RdeicError):
        return response(type(error).__name__, status, str(error), error.exit_code, headers)
    if isinstance(error, ValueError):
        return response("ValueError", status, str(error), EXIT_USAGE)
    _log.error("a request ran into a bug", exc_info=error)
    return response(type(error).__name__, status, "a bug in rdeic-rt; the server's log has the traceback", 1)


def install(app: FastAPI) -> None:
    """Let every error of an application be answered so."""

    @app.exception_handler(RdeicError)
    @app.exception_handler(ValueError)
    @app.exception_handler(Exception)
    async def _any(_: Request, error: Exception) -> Response:
        return of(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        faults = "; ".join(f"{'.'.join(map(str, one['loc'][1:]))}: {one['msg']}" for one in error.errors())
        return response("ValueError", HTTPStatus.BAD_REQUEST, faults, EXIT_USAGE)

    @app.exception_handler(HTTPException)
    async def _http(_: Request, error: HTTPException) -> Response:
        headers = dict(error.headers or {})
        return response("HTTPException", error.status_code, str(error.detail), EXIT_USAGE, headers)


def documented(*statuses: HTTPStatus) -> dict[int | str, dict[str, Any]]:
    """Return what OpenAPI is told of the errors of a route; `describe` corrects their type."""
    return {int(status): {"description": status.phrase, "model": Problem} for status in statuses}


def describe(document: dict[str, Any]) -> None:
    """Say in an OpenAPI document that errors are of the type they are of."""
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                if int(status) >= HTTPStatus.BAD_REQUEST:
                    answer["content"] = {MEDIA_TYPE: answer["content"].pop("application/json")}
