"""The documentation site: what it contains, and how a server shows it."""

import re
from pathlib import Path

import httpx
import pytest
from markdown_it import MarkdownIt

from guide.hooks import LINK, OUTSIDE
from tests.docs.site import SITE, build
from tests.docs.text import PAGES
from tests.services import REPOSITORY

# What a browser loads by itself: scripts, styles, pictures.
LOADED = re.compile(r"""<(?:script|img|iframe|source)[^>]*\ssrc="([^"]*)"|<link[^>]*\shref="([^"]*)"|url\(([^)]*)\)""")
ARTICLE = re.compile(r"<article.*?</article>", re.DOTALL)
COUNTED = ("li", "tr", "pre", "h2", "h3")


@pytest.fixture(scope="module", autouse=True)
def site() -> None:
    build()


def on_site(page: Path) -> Path:
    """Return the file of the site that a page of the repository becomes."""
    path = page.relative_to(REPOSITORY).as_posix()
    name = OUTSIDE.get(path, path.removeprefix("docs/")).removesuffix(".md").removesuffix("index")
    return SITE / name / "index.html"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(REPOSITORY).as_posix())
def test_a_page_reads_as_in_the_repository(page):
    """The Markdown of MkDocs and that of GitHub differ in small things, such as a list without a line before it."""
    article = ARTICLE.search(on_site(page).read_text())
    assert article
    in_repository = MarkdownIt("commonmark").enable("table").render(page.read_text())
    for tag in COUNTED:
        expected = len(re.findall(rf"<{tag}\b", in_repository))
        if tag == "pre":
            expected -= in_repository.count('<code class="language-mermaid">')
            shown = len(re.findall(r'<div class="[\w-]* ?highlight">', article[0]))
        else:
            shown = len(re.findall(rf"<{tag}\b", article[0]))
        assert shown == expected, tag
    assert article[0].count('class="mermaid"') == in_repository.count('class="language-mermaid"')


def test_nothing_is_loaded_from_another_host():
    files = [path for path in SITE.rglob("*") if path.suffix in (".html", ".css")]
    assert len(files) > 20
    for path in files:
        for address in LOADED.findall(path.read_text()):
            assert not re.match(r"\"?(?:https?:)?//", "".join(address)), f"{path}: {address}"


def test_pages_with_diagrams_bring_what_draws_them():
    """Otherwise the theme would load it from another host."""
    with_diagrams = [path for path in SITE.rglob("*.html") if 'class="mermaid"' in path.read_text()]
    assert len(with_diagrams) >= 4
    for path in with_diagrams:
        assert 'assets/mermaid.js"></script>' in path.read_text()
    script = (SITE / "assets" / "mermaid.js").read_bytes()
    assert b"globalThis" in script and len(script) > 1_000_000


def test_no_page_has_a_script_that_the_policy_forbids():
    for path in SITE.rglob("*.html"):
        inline = [tag for tag in re.findall(r"<script[^>]*>", path.read_text()) if "src=" not in tag]
        assert all('type="application/json"' in tag for tag in inline), path
        assert not re.search(r"<[^>]*\son\w+=", path.read_text()), path


@pytest.mark.parametrize("public_path", ["", "/scribe"])
def test_a_server_shows_it_to_everybody(make_server, public_path):
    server = make_server(REQUIRE_AUTH="true", PUBLIC_URL=f"http://127.0.0.1{public_path}" if public_path else "")
    server.start()
    with httpx.Client(base_url=server.url + public_path, trust_env=False, follow_redirects=True) as client:
        for path in ("/guide", "/guide/", "/guide/protocol", "/guide/tutorials/page/"):
            answer = client.get(path)
            assert answer.status_code == 200, path
            assert str(answer.url).endswith("/")
            assert "<article" in answer.text
            assert "default-src 'self'" in answer.headers["Content-Security-Policy"]
        assert client.get("/guide/nothing/").status_code == 404
        script = client.get("/guide/assets/mermaid.js")
        assert script.headers["Content-Encoding"] == "gzip"


def test_every_link_is_one_that_the_site_knows():
    """A file that is not on the site has no address there. `mkdocs build` follows the links between those that are."""
    for page in PAGES:
        for target in LINK.findall(page.read_text()):
            path = (page.parent / target).resolve().relative_to(REPOSITORY).as_posix()
            assert path.startswith(("docs/", "examples/")) or path in OUTSIDE, f"{page.name}: {target}"
