"""`rdeic-rt serve --web-modules`: what a browser needs to decode is served, and nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from rdeic_rt.cli.main import main
from rdeic_rt.serve import pages

from .test_serve import SETTINGS, problem, serving


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder such as web/build_site.py makes, with other contents."""
    folder = tmp_path_factory.mktemp("site")
    (folder / "secret").write_text("not below modules/")
    for name, content in (
        (pages.ENTRY_MODULE, b"export {};"),
        (Path("modules/a.mjs"), b""),
        (Path("modules/b.wasm"), b""),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture(scope="module")
def client(site: Path) -> Iterator[httpx.Client]:
    with serving(replace(SETTINGS, web_modules=site)) as (found, _):
        yield found


def test_modules_have_their_types_and_are_asked_about_each_time(client: httpx.Client) -> None:
    for name, kind in (
        ("rdeic-web/src/index.js", "text/javascript"),
        ("a.mjs", "text/javascript"),
        ("b.wasm", "application/wasm"),
    ):
        answer = client.get(f"/modules/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["cache-control"] == "no-cache"
        again = client.get(f"/modules/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert again.status_code == 304


def test_page_may_run_webassembly_in_threads(client: httpx.Client) -> None:
    headers = client.get("/").headers
    policy = headers["content-security-policy"]
    assert "script-src 'self' 'wasm-unsafe-eval';" in policy
    assert "worker-src 'self';" in policy
    assert "unsafe-inline" not in policy
    assert headers["cross-origin-opener-policy"] == "same-origin"
    assert headers["cross-origin-embedder-policy"] == "require-corp"


def test_files_of_a_bundle_are_those_it_lists_and_never_change(client: httpx.Client) -> None:
    (facts,) = client.get("/v1/bundles").json()
    manifest = client.get(facts["url"] + "bundle.json")
    assert manifest.headers["cache-control"] == "public, max-age=31536000, immutable"
    assert {rate["model_id"] for rate in manifest.json()["rates"]} == set(facts["model_ids"])
    name, listed = next(iter(json.loads(manifest.content)["files"].items()))
    content = client.get(facts["url"] + name).content
    assert (len(content), hashlib.sha256(content).hexdigest()) == (listed["bytes"], listed["sha256"])


@pytest.mark.parametrize(
    "path",
    [
        "/modules/../secret",
        "/modules/%2e%2e/secret",
        "/modules/missing.js",
        "{bundle}README.md",
        "{bundle}../../../bundle.json",
        "{bundle}%2e%2e/tiny-2/bundle.json",
        "/bundles/tiny-2/0123456789abcdef/bundle.json",
        "/bundles/none/0123456789abcdef/bundle.json",
    ],
)
def test_nothing_else_is_served(client: httpx.Client, path: str) -> None:
    (facts,) = client.get("/v1/bundles").json()
    kind = "BundleNotFoundError" if "/none/" in path else "HTTPException"
    # As it is: httpx itself would resolve what leads upwards.
    url = client.base_url.copy_with(raw_path=path.format(bundle=facts["url"]).encode())
    problem(client.get(url), 404, kind)


def test_folder_without_modules_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--port", "0", "--web-modules", str(tmp_path)]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "build_site.py" in line
    assert str(tmp_path) in line
