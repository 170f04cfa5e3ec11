"""Media that try to make their reader open something else: playlists in every disguise, and what notices if one does.

The trap is a file that nobody may open (inotify(7) tells) and a port of this machine that nobody may connect to.
"""

import contextlib
import ctypes
import os
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

SECRET = b"THE SECRET THAT NO RECORDING MAY HOLD "
FORMATS = ("wav", "mp3", "flac", "aac", "webm", "ogg", "mp4")
_IN_ACCESS, _IN_OPEN = 0x1, 0x20

_LISTS = {
    "hls": "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:1\n#EXT-X-MEDIA-SEQUENCE:0\n"
    "#EXTINF:1,\n{url}\n#EXTINF:1,\nfile:{path}\n#EXTINF:1,\n{path}\n"
    '#EXT-X-KEY:METHOD=AES-128,URI="{url}"\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n',
    "dash": '<?xml version="1.0"?>\n<MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static"'
    ' mediaPresentationDuration="PT9S"><Period><AdaptationSet mimeType="audio/mp4"><Representation id="1"'
    ' bandwidth="1"><BaseURL>{url}</BaseURL><SegmentList duration="1"><SegmentURL media="file:{path}"/>'
    "</SegmentList></Representation></AdaptationSet></Period></MPD>\n",
    "ffconcat": "ffconcat version 1.0\nfile {path}\nfile file:{path}\nfile {url}\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\na=control:{url}\n"
    "m=audio {port} RTP/AVP/TCP 0\n",
    "addresses": "data:application/x-mpegurl,%23EXTM3U%0A%23EXTINF:1,%0A{url}\n"
    "subfile,,start,0,end,99,,:file:{path}\nconcat:{path}|{url}\n{url}\n",
}
LISTS = tuple(_LISTS)


def box(name: bytes, *contents: bytes) -> bytes:
    body = b"".join(contents)
    return struct.pack(">I4s", len(body) + 8, name) + body


def id3(body: bytes) -> bytes:
    size = len(body)
    return b"ID3\x03\0\0" + bytes((size >> 21 & 127, size >> 14 & 127, size >> 7 & 127, size & 127)) + body


_STREAMINFO = struct.pack(">HH6sQ16s", 4096, 4096, bytes(6), 16000 << 44 | 15 << 36 | 16000, bytes(16))
_EBML = bytes.fromhex(
    "1a45dfa39f4286810142f7810142f2810442f381084282847765626d42878104428581021853806701ffffffffffffff"
)
# What a real file of the format begins with.
MAGIC = {
    "wav": (b"RIFF\xff\xff\xff\xffWAVE",),
    "mp3": (id3(b""), id3(bytes(50)), b"\xff\xfb\x90\x64"),
    "flac": (b"fLaC\x80\0\0\x22" + _STREAMINFO, b"fLaC"),
    "aac": (id3(b""), b"\xff\xf1\x60\x40\x20\x1f\xfc"),
    "webm": (_EBML, _EBML[:4]),
    "ogg": (b"OggS\0\x02" + bytes(8) + b"\x01\0\0\0\0\0\0\0\0\0\0\0\x01\x1e", b"OggS"),
    "mp4": (box(b"ftyp", b"isom\0\0\x02\0isomiso2"), b"\0\0\0\x18ftypM4A "),
}


class Trap:
    """A file and a port, and whether anybody touched them."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "secret.wav"
        self.path.write_bytes(SECRET * 2000)
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        self._accepted: list[tuple[str, int]] = []
        self._changed = threading.Condition()
        threading.Thread(target=self._accept, daemon=True).start()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._watch = self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        assert self._libc.inotify_add_watch(self._watch, bytes(self.path), _IN_ACCESS | _IN_OPEN) > 0

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, address = self._server.accept()
                connection.close()
                with self._changed:
                    self._accepted.append(address)
                    self._changed.notify_all()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/secret.wav"

    def bait(self, kind: str) -> bytes:
        """A list of that kind which names the file and the port."""
        return _LISTS[kind].format(url=self.url, path=self.path, port=self.port).encode()

    def connections(self) -> int:
        """How many connections were made since the last question."""
        # Connections are accepted in their order: behind this one there is none from before.
        with socket.create_connection(("127.0.0.1", self.port)) as marker:
            own = marker.getsockname()
            with self._changed:
                assert self._changed.wait_for(lambda: own in self._accepted, timeout=60)
                others = [address for address in self._accepted if address != own]
                self._accepted.clear()
        return len(others)

    def is_opened(self) -> bool:
        """Whether the file was opened since the last question."""
        try:
            return bool(os.read(self._watch, 1 << 16))
        except BlockingIOError:
            return False

    def assert_untouched(self) -> None:
        assert not self.is_opened()
        assert self.connections() == 0

    def close(self) -> None:
        os.close(self._watch)
        # It wakes the thread that accepts.
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()


@contextlib.contextmanager
def set_in(folder: Path) -> Iterator[Trap]:
    trap = Trap(folder)
    try:
        yield trap
    finally:
        trap.close()


def disguised(bait: bytes, audio_format: str) -> list[bytes]:
    """The bait as it is, and behind what a file of that format begins with."""
    return [bait, *(magic + bait for magic in MAGIC[audio_format])]


def weeks_of_silence() -> bytes:
    """Under two megabytes of FLAC (RFC 9639) that are nine days of silence at 8 kHz, mono."""
    info = struct.pack(">HH6sQ16s", 65535, 65535, bytes(6), 8000 << 44 | 15 << 36, bytes(16))
    made = []
    for number in range(100_000):
        # A block of the largest size, 8 kHz, mono, 16 bits; one subframe of a constant.
        body = b"\xff\xf8\x74\x08" + _coded(number) + b"\xff\xfe"
        body += bytes((crc(body, 8, 0x07),)) + bytes(3)
        made.append(body + crc(body, 16, 0x8005).to_bytes(2, "big"))
    return b"fLaC\x80\0\0\x22" + info + b"".join(made)


def crc(data: bytes, width: int, polynomial: int) -> int:
    """A checksum of FLAC's, bit by bit."""
    value = 0
    for byte in data:
        value ^= byte << (width - 8)
        for _ in range(8):
            value = value << 1 ^ (polynomial if value >> (width - 1) else 0)
            value &= (1 << width) - 1
    return value


def _coded(number: int) -> bytes:
    """The number of a frame, coded as UTF-8 codes characters."""
    if number < 0x80:
        return bytes((number,))
    size = 2 if number < 0x800 else 3 if number < 0x10000 else 4
    rest = [0x80 | number >> 6 * place & 0x3F for place in reversed(range(size - 1))]
    return bytes((0xF00 >> size & 0xFF | number >> 6 * (size - 1), *rest))


def patched(whole: bytes, path: tuple[bytes, ...], new: bytes) -> bytes:
    """Takes a box and the names that lead to one inside it; returns it with that one replaced, sizes put right."""
    if not path:
        return new
    at = 8
    while whole[at + 4 : at + 8] != path[0]:
        at += struct.unpack_from(">I", whole, at)[0]
    size = struct.unpack_from(">I", whole, at)[0]
    return box(whole[4:8], whole[8:at], patched(whole[at : at + size], path[1:], new), whole[at + size :])


def with_external_samples(mp4: bytes, target: str, kind: str) -> bytes:
    """Takes an MP4 file with its index at the end; returns one whose samples are said to be in another file.

    `kind` is `url ` (ISO/IEC 14496-12 section 8.7.2) or `alis`, QuickTime's Macintosh alias.
    """
    at = mp4.rindex(b"moov") - 4
    if kind == "url ":
        entry = box(b"url ", bytes(4), target.encode() + b"\0")
    else:
        name, place = Path(target).name.encode(), target.encode() + b"\0" * (len(target) % 2)
        record = bytes(10) + b"\x01" + b"x".ljust(27, b"\0") + bytes(12) + bytes((len(name),)) + name.ljust(63, b"\0")
        levels = bytes(16) + struct.pack(">HH", 1, 1) + bytes(16)
        paths = struct.pack(">HH", 2, len(place)) + place + struct.pack(">HH", 18, len(place)) + place
        entry = box(b"alis", bytes(4), record + levels + paths + struct.pack(">HH", 0xFFFF, 0))
    moov = mp4[at:]
    dref = box(b"dref", bytes(4), struct.pack(">I", 1), entry)
    return mp4[:at] + patched(moov, (b"trak", b"mdia", b"minf", b"dinf", b"dref"), dref)
