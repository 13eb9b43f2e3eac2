"""The playground's files over HTTP: headers, caching, and that nothing of it points outside."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import tomllib
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI

import deployments.playground
from deployments.api.pages.docs_page import resources
from deployments.api.pages.markdown_page import to_page
from deployments.ingress import create_app
from deployments.playground import STATIC
from model.checkpoint.hub import model_card
from model.text.tokenizer import Tokenizer
from tests.support.fake_backend import ANSWER, FakeBackend

ROOT = Path(__file__).parents[3]
BUNDLE = STATIC.parent / "bundle"
PAGES = ("/", "/teams", "/docs", "/model-card", "/terms")
MADE = ("clients.js", "request-fields.js", "stop-rules.js")
FILES = sorted(
    f"/playground/{name}" for name in (*MADE, *(path.name for path in STATIC.iterdir())) if not name.endswith(".html")
)
MEDIA_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}


@pytest.mark.parametrize("path", [*PAGES, *FILES])
async def test_headers(client: httpx.AsyncClient, path: str) -> None:
    answer = await client.get(path)
    assert answer.status_code == 200
    wanted = "text/html" if path in PAGES else MEDIA_TYPES[Path(path).suffix]
    assert answer.headers["content-type"].split(";")[0] == wanted
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-cache"
    policy = dict(part.strip().partition(" ")[::2] for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    head = await client.head(path)
    assert (head.status_code, head.content) == (200, b"")
    different = {"x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in different} == {
        k: v for k, v in answer.headers.items() if k not in different
    }


async def test_what_a_client_has_is_not_sent_again(client: httpx.AsyncClient) -> None:
    first = await client.get("/playground/codemirror.js")
    plain = await client.get("/playground/codemirror.js", headers={"accept-encoding": "identity, gzip;q=0"})
    assert first.headers["content-encoding"] == "gzip"
    assert "content-encoding" not in plain.headers
    assert first.content == plain.content == (STATIC / "codemirror.js").read_bytes()
    assert first.headers["vary"] == plain.headers["vary"] == "accept-encoding"
    assert first.headers["etag"] != plain.headers["etag"]
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}', "*"):
        again = await client.get("/playground/codemirror.js", headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert (await client.get("/", headers={"if-none-match": first.headers["etag"]})).status_code == 200


async def test_the_api_is_where_it_was(client: httpx.AsyncClient) -> None:
    answer = await client.post("/", json={"inputs": "x", "parameters": {"max_new_tokens": 50}})
    assert answer.json()[0]["generated_text"].endswith(ANSWER)
    for path in ("/playground/../app.py", "/playground/..%2fterms.md", "/playground/index.html", "/playground/"):
        assert (await client.get(path)).status_code == 404, path
    assert (await client.delete("/")).status_code == 405
    paths = (await client.get("/openapi.json")).json()["paths"]
    assert not [path for path in paths if "playground" in path or path == "/terms"]


def loaded(path: Path) -> set[Path]:
    """A file, and all that a browser loads for it."""
    names = re.findall(r'(?:src|href)="playground/([^"]+)"|(?:from|import) "\./([^"]+)"', path.read_text())
    below = [STATIC / (a or b) for a, b in names if (a or b) not in MADE and not (a or b).endswith(".txt")]
    return {path}.union(*map(loaded, below)) if path.name != "codemirror.js" else {path}


def test_the_page_is_light() -> None:
    def compressed(path: Path) -> int:
        return len(gzip.compress(path.read_bytes(), 9))

    for page in STATIC.glob("*.html"):
        assert sum(compressed(path) for path in loaded(page)) <= 200_000, page.name


def test_nothing_is_inline_and_nothing_is_loaded_from_elsewhere() -> None:
    for page in (path.read_text() for path in STATIC.glob("*.html")):
        assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", page)
        loaded = re.findall(r'\b(?:src|href)="([^"]*)"', page)
        assert {f"/{address}" for address in loaded if "playground/" in address} <= set(FILES)
        assert {f"/{address}" for address in loaded if "docs/" in address} <= resources().keys()
    ours = [
        path for path in STATIC.iterdir() if path.suffix in (".js", ".css", ".html") and path.name != "codemirror.js"
    ]
    for path in ours:
        text = path.read_text()
        assert not re.search(
            r"https?://(?!www\.w3\.org/2000/svg\b)|@import|\beval\(|new Function|innerHTML|\burl\((?!path)", text
        ), path.name
        imported = re.findall(r'(?:from|import) "([^"]+)"', text)
        assert all(name.removeprefix("./") in MADE or (STATIC / name).is_file() for name in imported), path.name
        assert len(text.splitlines()) < 450, path.name


def test_the_bundle_is_what_its_sources_make() -> None:
    """A full rebuild needs npm; its first line says what it was built from."""
    digest = hashlib.sha256()
    for name in ("package-lock.json", "codemirror.js", "build.mjs"):
        digest.update((BUNDLE / name).read_bytes())
    head = (STATIC / "codemirror.js").read_text()[:200]
    assert digest.hexdigest() in head, "run `npm ci && npm run build` in deployments/playground/bundle"
    package = json.loads((BUNDLE / "package.json").read_text())
    pins = [*package["dependencies"].values(), *package["devDependencies"].values()]
    assert all(re.fullmatch(r"\d+\.\d+\.\d+", pin) for pin in pins)
    lock = json.loads((BUNDLE / "package-lock.json").read_text())
    assert "://" not in json.dumps([entry for entry in lock["packages"].values() if "resolved" in entry])
    licences = (STATIC / "codemirror.licences.txt").read_text()
    for name, version in package["dependencies"].items():
        assert f"{name} {version} (MIT)" in licences
    assert "Permission is hereby granted" in licences


def test_an_installed_package_holds_every_file() -> None:
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    root = Path(deployments.playground.__file__).parent
    shipped = {path for pattern in patterns["deployments.playground"] for path in root.glob(pattern)}
    assert shipped == {*STATIC.iterdir(), root / "terms.md"}


def test_markdown_of_others_is_text() -> None:
    hostile = """# Card <script>alert(1)</script>

<img src=x onerror=alert(1)> [a](javascript:alert(1)) [b](data:text/html,x) ![pixel](https://elsewhere.invalid/p.png)
[c](https://elsewhere.invalid/ "t") <style>*{display:none}</style>

| n |
| --: |
| 1 |
"""
    page = to_page("<b>", f"---\nlicense: </code><script>\n---\n{hostile}").decode()
    assert "<title>&lt;b&gt;</title>" in page
    body = page.partition("<main>")[2]
    assert not re.search(r"<script|<img|<style|style=|href=\"(javascript|data):", body)
    assert '<a href="https://elsewhere.invalid/" title="t" rel="noopener noreferrer nofollow">c</a>' in body
    assert '<td class="right">1</td>' in body
    assert "license: &lt;/code&gt;" in body


async def test_the_card_is_the_checkpoints(
    app: FastAPI, client: httpx.AsyncClient, fake_backend: FakeBackend, tokenizer: Tokenizer, tmp_path: Path
) -> None:
    assert "has no model card" in (await client.get("/model-card")).text
    assert model_card(tmp_path) is None
    (tmp_path / "README.md").write_bytes(b"# My model \xff\n" + b"x" * (2 << 20))
    card = model_card(tmp_path)
    assert card is not None
    assert len(card) == 1 << 20
    served = create_app(backend=fake_backend, tokenizer=tokenizer, model_card=card)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(served), base_url="http://test") as other:
        assert "<h1>My model \ufffd</h1>" in (await other.get("/model-card")).text


async def test_the_terms_name_the_licence_and_what_it_forbids(client: httpx.AsyncClient) -> None:
    text = (await client.get("/terms")).text
    for words in ("BigCode OpenRAIL-M v1", "machine-generated", "malware", "medical advice", "minors"):
        assert words in text
