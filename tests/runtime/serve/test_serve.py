"""`rdeic-rt serve` over real HTTP: every route, every error, and clients that misbehave."""

from __future__ import annotations

import contextlib
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import httpx
import numpy as np
import pytest
import uvicorn
from numpy.typing import NDArray
from PIL import Image

import rdeic_rt
from rdeic_rt import Codec, DecodeOptions, bundle, bundle_search, bundle_store, stopping
from rdeic_rt import pixels as images
from rdeic_rt.cli.serve import listen
from rdeic_rt.limits import DEFAULT_LIMITS, Limits
from rdeic_rt.serve import app
from rdeic_rt.serve import compare as other_codecs
from rdeic_rt.serve.problems import MEDIA_TYPE
from rdeic_rt.serve.service import Service, Settings

PHOTO = Path(__file__).parents[2] / "data" / "photos" / "astronaut.jpg"
NAMES = ("tiny-2", "diffo-tiny")


def load(folder: Path, limits: Limits = DEFAULT_LIMITS) -> Codec:
    return rdeic_rt.load(folder, backend="cpu", threads=1, limits=limits)


SETTINGS = Settings(load, (bundle_search.find(NAMES[0]),), DEFAULT_LIMITS)


@contextlib.contextmanager
def serving(settings: Settings) -> Iterator[tuple[httpx.Client, Service]]:
    service = Service(settings)
    service.start()
    config = uvicorn.Config(app.build(service), port=0, log_config=None, server_header=False)
    with contextlib.closing(listen("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            port = listening.getsockname()[1]
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                yield client, service
        finally:
            server.should_exit = True
            thread.join()


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[httpx.Client, Service]]:
    folders = tuple(bundle_search.find(name) for name in NAMES)
    with serving(replace(SETTINGS, bundle_folders=folders, max_body_bytes=1 << 20)) as both:
        yield both


@pytest.fixture(scope="module")
def client(served: tuple[httpx.Client, Service]) -> httpx.Client:
    return served[0]


@pytest.fixture(scope="module")
def codec(served: tuple[httpx.Client, Service]) -> Codec:
    return served[1].named(None)


@pytest.fixture(scope="module")
def photo() -> bytes:
    """A part of the photo, as a PNG file."""
    encoded = BytesIO()
    Image.open(PHOTO).convert("RGB").crop((60, 20, 220, 140)).save(encoded, "PNG")
    return encoded.getvalue()


@pytest.fixture(scope="module")
def data(client: httpx.Client, photo: bytes) -> bytes:
    return client.post("/v1/encode", content=photo).raise_for_status().content


def pixels(content: bytes) -> NDArray[np.uint8]:
    return np.asarray(Image.open(BytesIO(content)).convert("RGB"))


def problem(answer: httpx.Response, status: int, kind: str) -> str:
    """Return the detail of an answer that must be this error."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    body = answer.json()
    assert (body["type"], body["status"]) == (kind, status)
    assert "\n" not in body["detail"]
    return str(body["detail"])


def test_files_and_images_are_those_of_the_codec(client: httpx.Client, codec: Codec, photo: bytes, data: bytes) -> None:
    assert data == codec.encode(pixels(photo))
    answer = client.post("/v1/decode", content=data)
    assert answer.headers["content-type"] == "image/png"
    np.testing.assert_array_equal(pixels(answer.content), codec.decode(data))
    assert {"entropy", "denoise", "vae"} <= set(re.findall(r"(\w+);dur=\d", answer.headers["server-timing"]))

    options = {"sharpness": 0.5, "seed": 7}
    answer = client.post("/v1/decode", content=data, params=options)
    np.testing.assert_array_equal(pixels(answer.content), codec.decode(data, DecodeOptions(sharpness=0.5, seed=7)))
    preview = client.post("/v1/decode", content=data, params={"preview": True})
    np.testing.assert_array_equal(pixels(preview.content), codec.decode(data, DecodeOptions(preview=True)))


@pytest.mark.parametrize("query", [{"rate": "smallest"}, {"rate": "3"}, {"rate": "1.5"}, {"target_bytes": 400}])
def test_encode_takes_what_the_command_takes(
    client: httpx.Client, codec: Codec, photo: bytes, query: dict[str, str | int]
) -> None:
    answer = client.post("/v1/encode", content=photo, params=query)
    rate = {"smallest": "smallest", "3": 3, "1.5": 1.5}.get(str(query.get("rate")))
    target = query.get("target_bytes")
    expected = codec.encode(pixels(photo), rate, target_bytes=int(target) if target else None)  # type: ignore[arg-type]
    assert answer.content == expected
    assert answer.headers["content-type"] == "image/x-rdc"
    assert answer.headers["rdc-rate"]
    assert float(answer.headers["rdc-bpp"]) == pytest.approx(8 * len(expected) / (160 * 120), abs=1e-4)


def test_another_bundle_encodes_and_its_files_find_it(client: httpx.Client, photo: bytes) -> None:
    small = client.post("/v1/encode", content=photo, params={"bundle": "diffo-tiny"}).content
    facts = client.post("/v1/info", content=small).json()
    assert (facts["bundle"], facts["bytes"], facts["width"], facts["height"]) == ("diffo-tiny", len(small), 160, 120)
    assert pixels(client.post("/v1/decode", content=small).content).shape == (120, 160, 3)


def test_bundles_are_listed_with_their_rates(client: httpx.Client, codec: Codec) -> None:
    listed = client.get("/v1/bundles").json()
    assert [one["name"] for one in listed] == list(NAMES)
    assert [rate["label"] for rate in listed[0]["rates"]] == [rate.label for rate in codec.bundle.rates]


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("image/webp", "image/webp"),
        ("image/avif,image/webp;q=0.8,*/*;q=0.5", "image/webp"),
        ("image/*", "image/png"),
        ("image/png;q=0.1, image/jpeg", "image/jpeg"),
        ("*/*, image/png;q=0", "image/jpeg"),
        ("", "image/png"),
    ],
)
def test_accept_chooses_the_format(accept: str, kind: str) -> None:
    assert app.preferred(accept) == kind


@pytest.mark.parametrize("accept", ["text/html", "image/png;q=0", "image/png;q=x"])
def test_accept_may_leave_nothing(client: httpx.Client, data: bytes, accept: str) -> None:
    answer = client.post("/v1/decode", content=data, headers={"accept": accept})
    assert "image/png" in problem(answer, 406, "HTTPException")


def test_etag_says_whether_the_client_has_the_image(client: httpx.Client, data: bytes) -> None:
    first = client.post("/v1/decode", content=data)
    tag = first.headers["etag"]
    again = client.post("/v1/decode", content=data, headers={"if-none-match": tag})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    for other in (
        client.post("/v1/decode", content=data, params={"seed": 1}),
        client.post("/v1/decode", content=data, headers={"accept": "image/webp"}),
    ):
        assert other.headers["etag"] != tag


def test_half_a_file_is_decoded_where_that_is_asked_for(client: httpx.Client, data: bytes) -> None:
    half = data[: len(data) // 2]
    problem(client.post("/v1/decode", content=half), 422, "TruncatedError")
    answer = client.post("/v1/decode", content=half, params={"allow_partial": True})
    assert answer.status_code == 200
    complete, of = map(int, answer.headers["rdc-complete-slices"].split("/"))
    assert complete < of


def test_errors_have_their_class_and_status(client: httpx.Client, photo: bytes, data: bytes) -> None:
    damaged = data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]
    decode = "/v1/decode"
    problem(client.post(decode, content=b""), 422, "TruncatedError")
    problem(client.post(decode, content=photo), 415, "NotRdcError")
    problem(client.post(decode, content=damaged), 422, "ChecksumError")
    problem(client.post("/v1/info", content=damaged), 422, "ChecksumError")
    problem(client.post("/v1/encode", content=b"GIF87a?"), 422, "ImageError")
    problem(client.post("/v1/encode", content=photo, params={"target_bytes": 1}), 422, "ImageError")
    assert "largest" in problem(client.post("/v1/encode", content=photo, params={"rate": "huge"}), 400, "ValueError")
    problem(client.post("/v1/encode", content=photo, params={"rate": 1, "target_bpp": 1}), 400, "ValueError")
    problem(client.post(decode, content=data, params={"sharpness": "nan"}), 400, "ValueError")
    problem(client.post(decode, content=data, params={"sharpness": 99}), 400, "ValueError")
    problem(client.post(decode, content=data, params={"seed": -1}), 400, "ValueError")
    problem(client.post(decode, content=data, params={"steps": 77}), 400, "ValueError")
    problem(client.get(decode), 405, "HTTPException")
    problem(client.get("/v1/nothing"), 404, "HTTPException")


def test_file_of_a_model_that_is_not_served_is_a_conflict(photo: bytes) -> None:
    with serving(replace(SETTINGS, bundle_folders=(bundle_search.find("diffo-tiny"),))) as (client, _):
        data = load(bundle_search.find("tiny-2")).encode(pixels(photo))
        assert "diffo-tiny" in problem(client.post("/v1/decode", content=data), 409, "BundleMismatchError")


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc", str(bundle_search.find("tiny-2")), "..", "tiny-2/"])
def test_names_are_never_paths(client: httpx.Client, photo: bytes, name: str) -> None:
    answer = client.post("/v1/encode", content=photo, params={"bundle": name})
    assert "is served here" in problem(answer, 404, "BundleNotFoundError")
    assert client.get(f"/..%2f..%2f{name}").status_code == 404


def test_bodies_are_bounded_whether_or_not_they_say_how_long_they_are(client: httpx.Client) -> None:
    for n_bytes in ((1 << 20) + 1, (2 << 20) - 1):
        problem(client.post("/v1/decode", content=bytes(n_bytes)), 413, "BodyTooLargeError")
        problem(client.post("/v1/decode", content=iter([bytes(n_bytes)])), 413, "BodyTooLargeError")
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as endless:
        endless.settimeout(30)
        endless.sendall(b"POST /v1/decode HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        for _ in range(33):
            endless.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
        answer = b""
        with contextlib.suppress(ConnectionError):
            while part := endless.recv(1 << 16):  # until the server closes the connection
                answer += part
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"BodyTooLargeError" in answer


def test_dimensions_are_bounded(photo: bytes, data: bytes) -> None:
    limits = Limits(max_pixels=64 * 64)
    settings = replace(SETTINGS, limits=limits, load=lambda folder: load(folder, limits))
    with serving(settings) as (client, _):
        for route in ("/v1/decode", "/v1/info"):
            assert "max_pixels" in problem(client.post(route, content=data), 413, "LimitExceededError")
        for route in ("/v1/encode", "/v1/compare?codec=jpeg&target_bytes=900"):
            assert "max_pixels" in problem(client.post(route, content=photo), 413, "ImageTooLargeError")


class Held:
    """Work that goes on until it is let go, or is to stop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.begun, self.may_end, self.stopped = threading.Event(), threading.Event(), threading.Event()
        real = images.read_image

        def read_image(*given: object) -> object:
            self.begun.set()
            try:
                while not self.may_end.wait(0.02):
                    stopping.go_on()
            except BaseException:
                self.stopped.set()
                raise
            return real(*given)  # type: ignore[arg-type]

        monkeypatch.setattr(images, "read_image", read_image)


def test_requests_beyond_the_queue_are_refused_at_once(photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(replace(SETTINGS, workers=1, queue=2)) as (client, service), ThreadPoolExecutor(8) as threads:
        held = Held(monkeypatch)
        answers = [threads.submit(client.post, "/v1/encode", content=photo) for _ in range(8)]
        held.begun.wait(10)
        deadline = time.monotonic() + 10
        while sum(one.done() for one in answers) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        refused = [one.result() for one in answers if one.done()]
        assert len(refused) == 5
        for answer in refused:
            problem(answer, 503, "BusyError")
            assert int(answer.headers["retry-after"]) >= 1
        problem(client.get("/readyz"), 503, "BusyError")
        assert client.get("/livez").status_code == 200
        assert "rdeic_rt_queue_length 2.0" in client.get("/metrics").text
        held.may_end.set()
        assert sorted(one.result().status_code for one in answers) == [200] * 3 + [503] * 5
        assert client.get("/readyz").status_code == 200
        assert not service.is_full


def test_work_that_takes_too_long_is_ended(photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with serving(replace(SETTINGS, timeout_s=0.3)) as (client, service):
        held = Held(monkeypatch)
        assert "0.3 s" in problem(client.post("/v1/encode", content=photo), 504, "CancelledError")
        assert held.stopped.wait(10)
        assert service._admitted == 0


def test_work_for_a_client_that_left_is_ended(
    served: tuple[httpx.Client, Service], photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, _ = served
    held = Held(monkeypatch)
    with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as leaving:
        head = f"POST /v1/encode HTTP/1.1\r\nHost: x\r\nContent-Length: {len(photo)}\r\n\r\n"
        leaving.sendall(head.encode() + photo)
        assert held.begun.wait(10)
    assert held.stopped.wait(10)


def test_bodies_that_do_not_arrive_are_given_up(data: bytes) -> None:
    with serving(replace(SETTINGS, timeout_s=0.3)) as (client, service):
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as slow:
            slow.sendall(f"POST /v1/decode HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode())
            slow.sendall(data[:10])
            slow.settimeout(10)
            assert slow.recv(1 << 16).startswith(b"HTTP/1.1 408 ")
        with socket.create_connection((client.base_url.host, client.base_url.port or 80)) as cut:
            cut.sendall(f"POST /v1/decode HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n".encode())
            cut.sendall(data[:10])
        assert client.post("/v1/info", content=data).status_code == 200
        deadline = time.monotonic() + 10
        while service._admitted and time.monotonic() < deadline:
            time.sleep(0.02)
        assert service._admitted == 0


def test_many_requests_leave_memory_as_it_is(client: httpx.Client, data: bytes, photo: bytes) -> None:
    def some(count: int) -> None:
        for number in range(count):
            assert client.post("/v1/info", content=data).status_code == 200
            assert client.post("/v1/decode", content=data[: 20 + number % 7]).status_code == 422
            if number % 10 == 0:
                assert client.post("/v1/decode", content=data, params={"preview": True}).status_code == 200
                assert client.post("/v1/encode", content=photo).status_code == 200

    some(50)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    some(450)  # 990 requests
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 32 * 1024  # KiB


def test_metrics_count_requests_stages_and_bytes(client: httpx.Client, data: bytes) -> None:
    client.post("/v1/decode", content=data)
    text = client.get("/metrics").text
    assert re.search(r'rdeic_rt_requests_total\{code="200",route="/v1/decode"\} [1-9]', text)
    assert re.search(r'rdeic_rt_stage_seconds_count\{route="/v1/decode",stage="entropy"\} [1-9]', text)
    assert re.search(r'rdeic_rt_pixels_total\{route="/v1/decode"\} [1-9]', text)


def test_spans_are_exported_where_opentelemetry_is(
    client: httpx.Client, data: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    spans: list[str] = []

    class Tracer:
        @contextlib.contextmanager
        def start_as_current_span(self, name: str, attributes: object = None) -> Iterator[None]:
            spans.append(name)
            yield

    monkeypatch.setattr("rdeic_rt.serve.telemetry._tracer", Tracer)
    client.post("/v1/decode", content=data)
    assert spans[0] == "rdeic_rt.decode"
    assert {"rdeic_rt.entropy", "rdeic_rt.denoise", "rdeic_rt.vae"} <= set(spans)


@pytest.mark.parametrize("name", other_codecs.available())
def test_other_codecs_are_given_the_same_bytes(client: httpx.Client, photo: bytes, name: str) -> None:
    for target, is_scaled in ((20_000, False), (420, True)):
        answer = client.post("/v1/compare", content=photo, params={"codec": name, "target_bytes": target})
        assert int(answer.headers["rdc-bytes"]) <= target
        assert (float(answer.headers["rdc-scale"]) < 1) == is_scaled
        assert pixels(answer.content).shape == (120, 160, 3)
    problem(client.post("/v1/compare", content=photo, params={"codec": name, "target_bytes": 5}), 422, "ImageError")
    problem(client.post("/v1/compare", content=photo, params={"codec": "bmp", "target_bytes": 5}), 400, "ValueError")


def test_page_loads_nothing_from_elsewhere(client: httpx.Client) -> None:
    page = client.get("/")
    assert page.status_code == 200
    assert "default-src 'none'" in page.headers["content-security-policy"]
    parts = re.findall(r'(?:src|href)="([^"#]+)"', page.text)
    assert {"comparison.css", "viewer.js"} <= set(parts)
    for part in parts:
        assert part.startswith("data:") or client.get(f"/{part}").status_code == 200
    assert not re.search(r"<(script|style)>|\son\w+=|\sstyle=", page.text)  # the policy would stop it
    ids = set(re.findall(r'\bid="([\w-]+)"', page.text))
    assert set(re.findall(r'element\("([\w-]+)"\)', client.get("/viewer.js").text)) <= ids


def test_openapi_describes_bodies_and_errors(client: httpx.Client) -> None:
    document = client.get("/openapi.json").json()
    decode = document["paths"]["/v1/decode"]["post"]
    assert "image/x-rdc" in decode["requestBody"]["content"]
    assert {"200", "304", "400", "409", "413", "415", "422", "503", "504"} <= set(decode["responses"])
    for path in document["paths"].values():
        for operation in path.values():
            for status, answer in operation["responses"].items():
                assert int(status) < 400 or [*answer["content"]] == [MEDIA_TYPE], status


def test_sigterm_lets_what_runs_end(data: bytes) -> None:
    command = [sys.executable, "-m", "rdeic_rt", "serve", "--port", "0", "--backend", "cpu", "--bundle", "tiny-2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        line = process.stderr.readline()
        found = re.search(r"serving tiny-2 at (http://127\.0\.0\.1:\d+)", line)
        assert found, line
        with ThreadPoolExecutor(1) as thread:
            with httpx.Client(base_url=found[1], timeout=60) as client:
                answer = thread.submit(client.post, "/v1/decode", content=data)
                while "rdeic_rt_working 1.0" not in httpx.get(f"{found[1]}/metrics").text and not answer.done():
                    pass
                process.send_signal(signal.SIGTERM)
                assert answer.result().status_code == 200
        assert process.wait(30) in (0, -signal.SIGTERM)
        assert process.stderr.read() == ""


def test_port_in_use_is_one_line() -> None:
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "rdeic_rt", "serve", "--port", port]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1
    assert port in done.stderr


def test_without_the_extra_the_command_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.modules['uvicorn'] = None; from rdeic_rt.__main__ import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", code, "serve"], capture_output=True, text=True, check=False)
    assert done.returncode == 6, done.stderr
    assert "pip install 'rdeic-rt[serve]'" in done.stderr
    assert json.dumps(done.stderr).count("Traceback") == 0


def test_bundle_that_only_decodes_is_served_and_encodes_nothing(tmp_path: Path, golden_bundle: Path) -> None:
    bundle_store.push(bundle.load(golden_bundle), str(tmp_path / "half"), decode_only=True)
    with serving(replace(SETTINGS, bundle_folders=(tmp_path / "half",))) as (half, _):
        assert half.get("/readyz").status_code == 200
        assert [one["encodes"] for one in half.get("/v1/bundles").json()] == [False]
        old = (golden_bundle.parent / "coffee_r0.rdc").read_bytes()
        assert half.post("/v1/decode", content=old).status_code == 200
        detail = problem(half.post("/v1/encode", content=PHOTO.read_bytes()), 409, "BundleDecodesOnlyError")
        assert "only decodes. Use another one to encode: tiny-2" in detail
