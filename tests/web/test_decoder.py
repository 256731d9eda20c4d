"""RdcDecoder in a page: what it fetches and keeps, options, progress, aborts, threads, tiles and GPU."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import rdeic_rt
from rdeic_rt import DecodeOptions, Metadata
from tests.conftest import EMBEDDED_BUNDLE

from .conftest import Open, Page, close_images, opening, site
from .server import CSP, CSP_WEBGPU, Site, serving

TINY = "/bundles/tiny-2"
# The flags with which Chromium runs WebGPU on the CPU.
SWIFTSHADER = (
    "--enable-unsafe-webgpu",
    "--use-webgpu-adapter=swiftshader",
    "--use-vulkan=swiftshader",
    "--enable-features=Vulkan,WebGPU",
    "--ignore-gpu-blocklist",
)


@pytest.fixture
def fresh(rdc: bytes) -> Iterator[Site]:
    """A site of its own, and so an empty cache; /photo.rdc is a small file of tiny-2."""
    made = site()
    made.contents["/photo.rdc"] = rdc
    with serving(made) as served:
        yield served


@pytest.fixture(scope="module")
def ready(page: Page, served: Site, rdc: bytes) -> Page:
    """A page with a decoder of tiny-2 in fp32, whose weights are loaded; /photo.rdc as above."""
    served.contents["/photo.rdc"] = rdc
    page.load(TINY, precision="fp32")
    page.decode("/photo.rdc")
    return page


def fetched(made: Site) -> set[str]:
    """Return the names of the bundle's files that were sent."""
    return {path.removeprefix(f"{TINY}/") for path, _ in made.sent if path.startswith(f"{TINY}/")}


def workers_end(page: Page) -> None:
    """Wait until the page has no workers."""
    for _ in range(50):
        if not page.raw.workers:
            return
        page.raw.wait_for_timeout(100)
    raise AssertionError("a worker goes on")


def test_only_what_is_needed_is_fetched(fresh: Site, open_page: Open) -> None:
    page = open_page(fresh)
    page.load(TINY)
    assert fetched(fresh) == {"bundle.json"}

    preview = {"bundle.json", "entropy.npz", "levels.npz", "synthesis.int8-cpu.onnx", "vae_decoder.int8-cpu.onnx"}
    found = page.decode("/photo.rdc", preview=True)
    assert fetched(fresh) == preview
    assert found["stats"]["downloadedBytes"] == fresh.sent_bytes(TINY)

    page.decode("/photo.rdc")
    assert fetched(fresh) == preview | {"control.int8-cpu.onnx", "unet_step.int8-cpu.onnx", "steps_1.npz"}
    sent = [path for path, _ in fresh.sent if path.startswith(TINY)]
    assert len(sent) == len(set(sent))


def test_weights_are_kept_for_the_next_visit(fresh: Site, open_page: Open) -> None:
    page = open_page(fresh)
    page.load(TINY)
    first = page.decode("/photo.rdc")
    before = len(fetched(fresh))
    fresh.sent.clear()

    page.raw.reload()
    page.raw.wait_for_function("globalThis.page !== undefined")
    page.load(TINY)
    again = page.decode("/photo.rdc")

    assert fetched(fresh) == {"bundle.json"}
    assert again["image"].tobytes() == first["image"].tobytes()
    assert again["stats"]["cachedBytes"] > 5_000_000
    assert before == 8


def test_without_cache_everything_is_fetched_again(fresh: Site, open_page: Open) -> None:
    page = open_page(fresh)
    for name in ("one", "two"):
        page.load(TINY, name, cache=False)
        page.decode("/photo.rdc", name, preview=True)
    assert page.raw.evaluate("caches.keys()") == []


def test_file_damaged_in_the_cache_is_fetched_again(fresh: Site, open_page: Open) -> None:
    page = open_page(fresh)
    page.load(TINY, "one")
    first = page.decode("/photo.rdc", "one", preview=True)
    page.raw.evaluate(
        """async () => {
            const cache = await caches.open("rdeic-web-1");
            for (const key of await cache.keys()) await cache.put(key, new Response("damaged"));
        }"""
    )
    fresh.sent.clear()
    page.load(TINY, "two")

    assert page.decode("/photo.rdc", "two", preview=True)["image"].tobytes() == first["image"].tobytes()
    assert len(fetched(fresh)) == 5


def test_site_that_holds_gzip_files(rdc: bytes, open_page: Open) -> None:
    import gzip

    made = site(folders={prefix: folder for prefix, folder in site().folders.items() if prefix != "/bundles/"})
    files = [path for path in EMBEDDED_BUNDLE.iterdir() if path.name != "README.md"]
    made.contents |= {f"{TINY}/{path.name}.gz": gzip.compress(path.read_bytes(), 6) for path in files}
    made.contents["/photo.rdc"] = rdc
    with serving(made) as served:
        page = open_page(served)
        page.load(TINY, compressed="gzip")
        found = page.decode("/photo.rdc", preview=True)
        downloads = [one for one in found["progress"] if one[0] == "download"]
        assert downloads[-1][1] == downloads[-1][2] > found["stats"]["downloadedBytes"]
        page.raw.close()


def test_info_needs_no_bundle(fresh: Site, open_page: Open, rdc: bytes) -> None:
    page = open_page(fresh)
    info = page.call("info", "/photo.rdc")
    assert (info["width"], info["height"]) == (192, 128)
    assert info["checksum"] == int.from_bytes(rdc[-4:], "little")
    assert not [path for path, _ in fresh.sent if "onnx" in path or "bundles" in path]


def test_bundle_facts(ready: Page) -> None:
    facts = ready.raw.evaluate("globalThis.page.decoders.decoder.bundle")
    assert (facts["name"], facts["family"], facts["defaultRate"]) == ("tiny-2", "rdeic", 1)
    assert [rate["number"] for rate in facts["rates"]] == [32, 96, 144, 192]
    assert facts["rates"][0]["stepChoices"] == [1, 2, 5]
    assert facts["rates"][0]["steps"] == 1


@pytest.mark.parametrize(
    "options",
    [{}, {"sharpness": 1.5}, {"sharpness": 0}, {"seed": 2**64 - 1}, {"steps": 2}, {"steps": 5, "sharpness": 0.5}],
    ids=str,
)
def test_options_give_the_image_of_the_python_runtime(
    options: dict[str, Any], ready: Page, fp32_codec: rdeic_rt.Codec, rdc: bytes
) -> None:
    given = options | ({"seed": str(options["seed"])} if "seed" in options else {})
    close_images(ready.decode("/photo.rdc", **given)["image"], fp32_codec.decode(rdc, DecodeOptions(**options)))


def test_progress(ready: Page) -> None:
    found = ready.decode("/photo.rdc", steps=2)
    parts = [one for one in found["progress"] if one[0] != "download"]
    assert parts == [
        ["entropy", 0, 5],
        ["synthesis", 1, 5],
        ["denoise", 2, 5],
        ["denoise", 3, 5],
        ["vae", 4, 5],
        ["done", 5, 5],
    ]
    assert found["isImageData"]
    assert set(found["stats"]["seconds"]) >= {"entropy", "synthesis", "denoise", "vae"}


def test_metadata(ready: Page, served: Site, codec: rdeic_rt.Codec, photo: NDArray[np.uint8]) -> None:
    exif = b"II*\0\x08\0\0\0\0\0\0\0\0\0"
    served.contents["/metadata.rdc"] = codec.encode(photo[:64, :64], metadata=Metadata(icc=b"profile" * 30, exif=exif))
    found = ready.decode("/metadata.rdc", preview=True)
    assert (found["icc"], found["exif"]) == (210, len(exif))
    assert ready.decode("/photo.rdc", preview=True)["icc"] is None


def test_source_may_be_a_blob_or_a_piece_of_a_buffer(ready: Page) -> None:
    same = ready.raw.evaluate(
        """async () => {
            const { decoder } = globalThis.page.decoders;
            const buffer = await (await fetch("/photo.rdc")).arrayBuffer();
            const padded = new Uint8Array(buffer.byteLength + 20);
            padded.set(new Uint8Array(buffer), 10);
            const images = [];
            for (const source of [buffer, new Blob([buffer]), padded.subarray(10, -10)]) {
                images.push((await decoder.preview(source)).data.join());
            }
            return new Set(images).size === 1 && buffer.byteLength > 0;
        }"""
    )
    assert same


def test_calls_wait_for_each_other(ready: Page) -> None:
    order = ready.raw.evaluate(
        """async () => {
            const { decoder } = globalThis.page.decoders;
            const data = await (await fetch("/photo.rdc")).arrayBuffer();
            const order = [];
            const call = (name, options) => decoder.decode(data, options).then(
                () => order.push(name), (error) => order.push(`${name} ${error.name} ${error.code}`));
            await Promise.all([
                call("a", {}), call("b", { steps: 5 }), call("c", { sharpness: -1 }), call("d", {}),
                call("e", { signal: AbortSignal.abort() }),
            ]);
            return order;
        }"""
    )
    assert order == ["e AbortError 20", "a", "b", "c RdcError invalid_argument", "d"]


ABORTED = """async ([options, stage]) => {
    const { decoder } = globalThis.page.decoders;
    const data = await (await fetch("/large.rdc")).arrayBuffer();
    const controller = new AbortController();
    const stages = [];
    let aborted;
    const onProgress = (one) => {
        stages.push(one.stage);
        if (one.stage === stage && aborted === undefined) {
            aborted = performance.now();
            controller.abort();
        }
    };
    const error = await decoder.decode(data, { ...options, signal: controller.signal, onProgress }).catch((e) => e);
    const after = performance.now() - aborted;
    const count = stages.length;
    const preview = await decoder.preview(data);
    return { name: error.name, after, width: preview.width, stages, later: stages.length - count };
}"""


@pytest.fixture(scope="module")
def large(served: Site, codec: rdeic_rt.Codec, photo: NDArray[np.uint8]) -> None:
    """A file that takes long: 902x600 pixels."""
    served.contents["/large.rdc"] = codec.encode(np.tile(photo, (2, 2, 1)))


@pytest.mark.parametrize("stage", ["entropy", "denoise", "vae"])
def test_abort_is_answered_at_once(stage: str, ready: Page, large: None) -> None:
    found = ready.raw.evaluate(ABORTED, [{"steps": 5}, stage])

    assert found["name"] == "AbortError"
    assert found["after"] < 100  # ms; a part takes longer
    assert found["later"] == 0
    assert "done" not in found["stages"]
    assert found["width"] == 902  # the next call works


# A worker that never answers a decode, however often it is asked to abort.
DEAF = b"""onmessage = ({ data: { id, call } }) => {
    if (call === "open") postMessage({ id, result: { manifest: new TextEncoder().encode(manifest), stats: {} } });
    while (call === "decode");
};
const manifest = '{"name": "x", "rates": [], "schedules": {}}';
"""


def test_worker_that_does_not_answer_an_abort_is_ended(fresh: Site, open_page: Open) -> None:
    fresh.contents["/modules/rdeic-web/src/worker.js"] = DEAF
    page = open_page(fresh)
    page.load(TINY)
    name, after = page.raw.evaluate(
        """async () => {
            const { decoder } = globalThis.page.decoders;
            const started = performance.now();
            const signal = AbortSignal.timeout(200);
            const error = await decoder.decode(new ArrayBuffer(9), { signal }).catch((e) => e);
            return [error.name, performance.now() - started];
        }"""
    )
    assert name == "TimeoutError"
    assert after < 1000
    assert len(page.raw.workers) == 1
    workers_end(page)


def test_abort_while_weights_are_on_their_way(fresh: Site, open_page: Open) -> None:
    fresh.hang.add(f"{TINY}/vae_decoder.int8-cpu.onnx")
    fresh.contents["/large.rdc"] = fresh.contents["/photo.rdc"]
    page = open_page(fresh)
    page.load(TINY)
    found = page.raw.evaluate(
        """async () => {
            const { decoder } = globalThis.page.decoders;
            const data = await (await fetch("/photo.rdc")).arrayBuffer();
            const started = performance.now();
            const error = await decoder.preview(data, { signal: AbortSignal.timeout(1500) }).catch((e) => e);
            return { name: error.name, seconds: (performance.now() - started) / 1000 };
        }"""
    )
    assert found["name"] == "TimeoutError"
    assert found["seconds"] < 3
    fresh.hang.clear()
    fresh.release.set()
    page.decode("/photo.rdc", preview=True)
    page.errors.clear()  # that an answer was cut short is shown


def test_trim_ends_the_worker_and_the_next_call_starts_another(open_page: Open, fresh: Site) -> None:
    page = open_page(fresh)
    page.load(TINY)
    first = page.decode("/photo.rdc", preview=True)
    assert len(page.raw.workers) == 1

    page.raw.evaluate("globalThis.page.decoders.decoder.trim()")
    workers_end(page)

    assert page.decode("/photo.rdc", preview=True)["image"].tobytes() == first["image"].tobytes()
    assert len(page.raw.workers) == 1


def test_closed_decoder(open_page: Open, fresh: Site) -> None:
    page = open_page(fresh)
    page.load(TINY)
    found = page.raw.evaluate(
        """async () => {
            const { decoder } = globalThis.page.decoders;
            const data = await (await fetch("/photo.rdc")).arrayBuffer();
            const running = decoder.preview(data).catch((error) => error.code);
            await new Promise((resolve) => setTimeout(resolve, 50));
            decoder.close();
            return [await running, await decoder.preview(data).catch((error) => error.code)];
        }"""
    )
    assert found == ["cancelled", "invalid_argument"]
    workers_end(page)


def test_prepare_loads_what_a_decode_needs(open_page: Open, fresh: Site) -> None:
    page = open_page(fresh)
    page.load(TINY)
    page.raw.evaluate("globalThis.page.decoders.decoder.prepare({ rate: 3 })")
    fresh.sent.clear()

    page.decode("/photo.rdc")

    assert fetched(fresh) == set()


def test_two_threads_give_the_same_image(isolated: Site, open_page: Open, ready: Page, rdc: bytes) -> None:
    isolated.contents["/photo.rdc"] = rdc
    page = open_page(isolated)
    page.load(TINY, threads=2, precision="fp32")

    found = page.decode("/photo.rdc")

    assert found["stats"]["threads"] == 2
    assert len(page.raw.workers) > 1
    one = ready.decode("/photo.rdc")
    assert one["stats"]["threads"] == 1
    close_images(found["image"], one["image"])


def test_page_that_is_not_isolated_has_one_thread(ready: Page) -> None:
    ready.load(TINY, "four", threads=4)
    assert ready.raw.evaluate("globalThis.page.decoders.four.stats.threads") == 1
    ready.raw.evaluate("globalThis.page.decoders.four.close()")


def test_tiles(page: Page, served: Site, photo: NDArray[np.uint8]) -> None:
    native = rdeic_rt.load(EMBEDDED_BUNDLE, backend="cpu", threads=1, precision="fp32", tile_px=256)
    data = native.encode(photo)
    served.contents["/tiled.rdc"] = data
    page.load(TINY, "tiled", precision="fp32", tilePx=256)

    found = page.decode("/tiled.rdc", "tiled")

    close_images(found["image"], native.decode(data))
    assert [one[0] for one in found["progress"]].count("vae") == 6  # tiles
    page.raw.evaluate("globalThis.page.decoders.tiled.close()")


def test_webgpu(launch: Any, photo: NDArray[np.uint8], fp32_codec: rdeic_rt.Codec) -> None:
    """On SwiftShader, a GPU on the CPU."""
    browser = launch(*SWIFTSHADER)
    made = site(headers={"Content-Security-Policy": CSP_WEBGPU})
    data = made.contents["/photo.rdc"] = fp32_codec.encode(photo[:64, :64])
    with serving(made) as served, opening(browser) as opened:
        page = opened(served)
        page.load(TINY, backend="webgpu")
        found = page.decode("/photo.rdc")
        assert found["stats"]["backend"] == "webgpu"
        close_images(found["image"], fp32_codec.decode(data))


def test_page_that_is_not_in_a_secure_context(launch: Any, fresh: Site) -> None:
    """Over http from another machine there is neither WebCrypto nor CacheStorage; hashes are compared all the same."""
    browser = launch("--host-resolver-rules=MAP other.example 127.0.0.1")
    fresh.address = fresh.address.replace("127.0.0.1", "other.example")
    with opening(browser) as opened:
        page = opened(fresh)
        assert page.raw.evaluate("[isSecureContext, typeof crypto.subtle, typeof caches]") == [
            False,
            "undefined",
            "undefined",
        ]
        page.load(TINY)
        assert page.decode("/photo.rdc", preview=True)["image"].shape == (128, 192, 3)

        data = bytearray((EMBEDDED_BUNDLE / "levels.npz").read_bytes())
        data[-1] ^= 1
        fresh.contents[f"{TINY}/levels.npz"] = bytes(data)
        page.load(TINY, "swapped")
        found = page.call("decode", "swapped", "/photo.rdc", {"preview": True})
        assert found["error"] == "bundle_corrupt", found


def test_addresses_of_libraries(fresh: Site, open_page: Open) -> None:
    """Strings or URLs; relative ones are relative to the page."""
    page = open_page(fresh)
    sizes = page.raw.evaluate(
        """async () => {
            const { RdcDecoder } = globalThis.page.rdeic;
            const data = await (await fetch("/photo.rdc")).arrayBuffer();
            const at = (path) => new URL(`/modules/${path}`, location.href);
            const sizes = [];
            for (const options of [
                { runtimeUrl: "modules/onnxruntime-web/dist", wasmUrl: "modules/rdeic-web/wasm/rdeic.wasm" },
                { runtimeUrl: at("onnxruntime-web/dist/"), wasmUrl: at("rdeic-web/wasm/rdeic.wasm") },
            ]) {
                const decoder = await RdcDecoder.load(new URL("/bundles/tiny-2/", location.href), options);
                sizes.push((await decoder.preview(data)).width);
                decoder.close();
            }
            return sizes;
        }"""
    )
    assert sizes == [192, 192]


def test_strict_policy_is_sent(served: Site, page: Page) -> None:
    assert served.headers["Content-Security-Policy"] == CSP
    with pytest.raises(Exception, match="unsafe-eval"):
        page.raw.evaluate(
            "new Promise((ok, no) => setTimeout(() => { try { ok(new Function('')()) } catch (e) { no(e) } }))"
        )
