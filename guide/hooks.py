"""Hooks of MkDocs that build the documentation site from the repository.

The documents link to each other by their paths in the repository, so that they can be read there too. The site also has
pages from outside of `docs/`. These hooks add them, and change the links to the paths of the site.
"""

import gzip
import posixpath
import re
from importlib.util import find_spec
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

REPOSITORY = Path(__file__).resolve().parent.parent
# Files outside of docs/, by their paths in the repository, with their paths on the site.
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "reporting.md",
    "CODE_OF_CONDUCT.md": "conduct.md",
    "LICENSE": "license.txt",
    "examples/README.md": "examples/index.md",
    "audio/static/console/icon.svg": "assets/icon.svg",
}
# The examples that can be downloaded. Pages are excluded, because they would run on the server's own origin.
SOURCES = {".mjs", ".py"}
LINK = re.compile(r"(?<=\]\()(?!https?:|mailto:|#)([^)#\s]+)")
COMPRESSED = {".css", ".html", ".js", ".json", ".svg", ".xml"}
LEAST_COMPRESSED_BYTES = 1024


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files from outside of docs/, and the script that draws the diagrams."""
    added = _outside() | {"assets/mermaid.js": _mermaid()}
    for path, source in added.items():
        files.append(File.generated(config, path, abs_src_path=str(source)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Return the text of a page, with links to the paths of the site."""
    here = _in_repository(page.file.src_uri)

    def moved(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(here), link[1]))
        return posixpath.relpath(_on_site(target), posixpath.dirname(page.file.src_uri) or ".")

    return LINK.sub(moved, markdown)


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Return the HTML of a page with a name for the dialog of the search, which screen readers need."""
    return output.replace('role="dialog"', 'role="dialog" aria-label="Search"')


def on_post_build(config: MkDocsConfig) -> None:
    """Write a compressed file beside each text file; WhiteNoise sends it to browsers that accept it."""
    for path in Path(config.site_dir).rglob("*"):
        if path.suffix in COMPRESSED and path.stat().st_size >= LEAST_COMPRESSED_BYTES:
            path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes(), mtime=0))


def _outside() -> dict[str, Path]:
    """Return the files outside of docs/ by their paths on the site."""
    examples = [path for path in (REPOSITORY / "examples").iterdir() if path.suffix in SOURCES]
    paths = {path.relative_to(REPOSITORY).as_posix() for path in examples}
    return {_on_site(path): REPOSITORY / path for path in paths | OUTSIDE.keys()}


def _on_site(path: str) -> str:
    """Return the path on the site of a file of the repository."""
    return OUTSIDE.get(path, path.removeprefix("docs/"))


def _in_repository(path: str) -> str:
    """Return the path in the repository of a page of the site."""
    known = {on_site: in_repository for in_repository, on_site in OUTSIDE.items()}
    return known.get(path, f"docs/{path}")


def _mermaid() -> Path:
    """Return the script of Mermaid for browsers, which the package mermaidx contains."""
    package = find_spec("mermaidx")
    if package is None or package.origin is None:
        raise PluginError("The package mermaidx, which contains Mermaid, is missing. `make guide` installs it.")
    return Path(package.origin).parent / "assets" / "mermaid.js"
