"""Bundles at an address: ``https://`` by the standard library, all others by fsspec, which the extra ``remote`` brings.

An address ends in an archive's suffix, or is a folder that holds a ``bundle.json``. ``hf://org/repo[@rev][/folder]`` is
a repository of the Hugging Face Hub, which fsspec reads with huggingface_hub.

Whatever goes wrong on the way is an `OSError` of one line that begins with the address.
"""

from __future__ import annotations

import http.client
import re
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from typing import IO, Any, BinaryIO

from .files import Stream

EXTRA = "remote"
_TIMEOUT_S = 60.0  # without a byte
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)(?:::.*)?://")


class AddressError(ValueError):
    """Nothing that is installed can read, or write, such an address; says what to install, if anything."""


def is_address(source: str) -> bool:
    """Return whether a text is an address, and no path."""
    return _SCHEME.match(source) is not None


@contextmanager
def opened(address: str) -> Iterator[Stream]:
    """Open the file at an address.

    Raises:
        FileNotFoundError: there is no such file.
        OSError: it cannot be read.
        AddressError: nothing here reads such an address.
    """
    if _is_http(address):
        with _errors_of(address):
            stream = _open_http(address)
    else:
        system, path = _file_system(address)
        with _errors_of(address):
            stream = system.open(path, "rb")
    with closing(stream):
        yield _Named(stream, address)


def files(address: str, names: Collection[str]) -> Iterator[tuple[str, Stream]]:
    """Yield those of these files of the folder at an address that there are; errors as of `opened`."""
    for name in names:
        try:
            with opened(child(address, name)) as stream:
                yield name, stream
        except FileNotFoundError:
            continue


def child(address: str, name: str) -> str:
    """Return the address of a file in the folder at an address; what follows a ``?`` stays at the end."""
    path, mark, query = address.partition("?") if _is_http(address) else (address, "", "")
    return f"{path.rstrip('/')}/{urllib.parse.quote(name) if _is_http(address) else name}{mark}{query}"


def path_of(address: str) -> str:
    """Return the part of an address in which an archive's suffix is looked for."""
    return urllib.parse.urlsplit(address).path if _is_http(address) else address


class Target:
    """A folder or file at an address that is written to, by fsspec."""

    def __init__(self, address: str) -> None:
        """Find out how; AddressError as of `opened`, and for ``https://``."""
        if _is_http(address):
            raise AddressError(f"{address}: files can be read there, but not be written")
        self._address = address
        self._system, self._path = _file_system(address)

    def exists(self, name: str = "") -> bool:
        """Return whether there is a file, or the target itself."""
        with _errors_of(self._address):
            return bool(self._system.exists(self._inside(name)))

    def write(self, source: BinaryIO, name: str = "") -> None:
        """Write a file; what there is of one that fails is removed."""
        path = self._inside(name)
        with _errors_of(self._address):
            try:
                if name:
                    self._system.makedirs(path.rpartition("/")[0], exist_ok=True)
                with self._system.open(path, "wb") as target:
                    while block := source.read(1 << 20):
                        target.write(block)
            except BaseException:
                if self._system.exists(path):
                    self._system.rm_file(path)
                raise

    def _inside(self, name: str) -> str:
        return f"{self._path.rstrip('/')}/{name}" if name else self._path


class _Named:
    """A stream whose errors name the address."""

    def __init__(self, stream: Stream, address: str) -> None:
        self._stream, self._address = stream, address

    def read(self, n_bytes: int, /) -> bytes:
        with _errors_of(self._address):
            return self._stream.read(n_bytes)


class _StaysEncrypted(urllib.request.HTTPRedirectHandler):
    """Follows redirections, but none from https:// to where anyone on the way can change what comes."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request that follows one, as urllib asks for it; OSError where there is none."""
        if req.type == "https" and not newurl.startswith("https://"):
            raise OSError(f"is redirected to {newurl}, which is not encrypted")
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _open_http(address: str) -> Any:
    # Proxies are those of the environment.
    opener = urllib.request.build_opener(_StaysEncrypted)
    request = urllib.request.Request(address, headers={"User-Agent": "rdeic-rt", "Accept-Encoding": "identity"})
    return opener.open(request, timeout=_TIMEOUT_S)


def _file_system(address: str) -> tuple[Any, str]:
    try:
        import fsspec

        found: tuple[Any, str] = fsspec.core.url_to_fs(address)
    except (ImportError, ValueError) as error:
        text = " ".join(str(error).split())
        is_ours = isinstance(error, ImportError) and any(name in text for name in ("fsspec", "huggingface_hub"))
        hint = f". Install it with `pip install 'rdeic-rt[{EXTRA}]'`" if is_ours else ""
        raise AddressError(f"{address}: {text}{hint}") from None
    return found


def _is_http(address: str) -> bool:
    return address.lower().startswith(("https://", "http://"))


@contextmanager
def _errors_of(address: str) -> Iterator[None]:
    """Make what is raised an OSError that names the address; what it means for the caller stays as it is."""
    try:
        yield
    except FileNotFoundError:
        raise FileNotFoundError(f"{address}: there is no such file") from None
    except urllib.error.HTTPError as error:
        if error.code in (404, 410):
            raise FileNotFoundError(f"{address}: there is no such file") from None
        raise OSError(f"{address}: the server says {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise OSError(f"{address}: {error.reason}") from None
    except Exception as error:  # each file system of fsspec has a library, and errors, of its own
        text = str(error)
        raise OSError(text if text.startswith(address) else f"{address}: {text or type(error).__name__}") from None
