"""PURE. The plan of a session's assembly: its family, the size of its windows, and the arguments of FFmpeg.

There are three families (`Family`). The arguments limit what FFmpeg may open and decode, because strangers have sent
everything that it reads. `audio.media.ffmpeg` adds the limits and the output to each list of arguments.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum

from audio.media.chapters import IN_COMMENTS
from audio.media.frames import PartDescription
from audio.media.samples import PcmFormat

WINDOW_BYTES = 4 << 20
WINDOW_CHUNKS = 4096
DECODE_SECONDS = 30
# pydub has the samples of a window in memory several times. Larger files, and files that declare no length, are decoded
# without it.
DECODE_BYTES = 16 << 20
# Recordings contain only audio: no other tracks, and no metadata of the files.
_AUDIO_ALONE = ("-vn", "-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1")
# A larger gap in timestamps is an error of a clock and not a pause.
LONGEST_GAP_SECONDS = 86400
# A gap is longer than this. The packets of live streams are some milliseconds early or late, and browsers are off by a
# packet of 20 ms when they begin. Shorter differences add up until they are this long.
GAP_SECONDS = 0.025
# Without this option FFmpeg removes gaps of more than ten seconds from the timestamps of an Ogg file.
_KEEP_GAPS = ("-dts_delta_threshold", "1000000000")


class Family(StrEnum):
    """How a session's chunks become its recording."""

    PCM = "pcm"
    STREAM = "stream"
    FILES = "files"


@dataclass(frozen=True, slots=True)
class FormatPlan:
    """What FFmpeg may use for a format: demuxers, decoders, and how it writes the format."""

    demuxer: str
    demuxer_names: str
    decoders: str
    muxer: str
    encoder: tuple[str, ...]
    content_type: str


CONTAINERS = ("webm", "ogg", "mp4")
_OPUS_OR_VORBIS = "libopus,opus,libvorbis,vorbis"
_PCM = (
    "pcm_mulaw,pcm_alaw,pcm_u8,pcm_s8,pcm_s16le,pcm_s16be,pcm_s24le,pcm_s24be,pcm_s32le,pcm_s32be,"
    "pcm_f32le,pcm_f32be,pcm_f64le,pcm_f64be"
)
# Further codecs in the Matroska and MP4 files of screen recorders, cameras and phones.
_OTHERS = f"aac,flac,mp3float,alac,{_PCM}"
FORMATS = {
    "wav": FormatPlan("wav", "wav", "pcm_u8,pcm_s16le,pcm_s24le,pcm_s32le,pcm_f32le", "wav", (), "audio/wav"),
    "mp3": FormatPlan("mp3", "mp3", "mp3float", "mp3", ("libmp3lame", "-q:a", "2"), "audio/mpeg"),
    "flac": FormatPlan("flac", "flac", "flac", "flac", ("flac",), "audio/flac"),
    "aac": FormatPlan("aac", "aac", "aac", "adts", ("aac",), "audio/aac"),
    "webm": FormatPlan("matroska", "matroska,webm", f"{_OPUS_OR_VORBIS},{_OTHERS}", "webm", ("libopus",), "audio/webm"),
    "ogg": FormatPlan("ogg", "ogg", f"{_OPUS_OR_VORBIS},flac", "ogg", ("libopus",), "audio/ogg"),
    "mp4": FormatPlan("mov", "mov,mp4,m4a,3gp,3g2,mj2", f"{_OPUS_OR_VORBIS},{_OTHERS}", "mp4", ("aac",), "audio/mp4"),
}
LOSSLESS = ("wav", "flac")


@dataclass(frozen=True, slots=True)
class Part:
    """One complete file: the chunks `first_sequence` to `last_sequence`, and its declarations."""

    first_sequence: int
    last_sequence: int
    data: bytes
    description: PartDescription | None


@dataclass(frozen=True, slots=True)
class Span:
    """The bytes of a file from `start` up to, and not including, `end`."""

    start: int
    end: int


def family(audio_format: str, chunk_mode: str) -> Family:
    """Return the family by which the first chunks of a session are assembled."""
    if audio_format == "wav":
        return Family.PCM
    return Family.FILES if chunk_mode == "files" else Family.STREAM


def bounded(sizes: Sequence[int], limit_bytes: int = WINDOW_BYTES) -> int:
    """Return how many of the pending chunks make a window, from their sizes: at least one, if there is one."""
    total = 0
    for count, size in enumerate(sizes):
        total += size
        if total > limit_bytes:
            return max(1, count)
    return len(sizes)


def _goes_with(before: PartDescription, part: PartDescription) -> bool:
    return (before.sample_rate, before.channels, before.bits) == (part.sample_rate, part.channels, part.bits)


def is_batchable(description: PartDescription | None) -> bool:
    """Whether a part may share a run with others: it declares its parameters, has 16 bits and is not long."""
    if description is None or description.bits > 16 or not description.channels:
        return False
    return 0 < description.sample_frames <= _most_frames(description)


def _most_frames(description: PartDescription) -> int:
    """The number of sample frames with these parameters that one run may decode."""
    return min(DECODE_SECONDS * description.sample_rate, DECODE_BYTES // (2 * description.channels))


def windows(parts: Sequence[Part]) -> Iterator[list[Part]]:
    """Yield the parts that one FFmpeg run may decode: same parameters, up to DECODE_SECONDS, in order."""
    window: list[Part] = []
    frames = 0
    for part in parts:
        if window and not _fits(window[-1].description, part.description, frames):
            yield window
            window, frames = [], 0
        window.append(part)
        frames += part.description.sample_frames if part.description else 0
    if window:
        yield window


def _fits(before: PartDescription | None, part: PartDescription | None, frames: int) -> bool:
    if before is None or part is None or not (is_batchable(before) and is_batchable(part)):
        return False
    return _goes_with(before, part) and frames + part.sample_frames <= _most_frames(part)


def expected_frames(window: Sequence[Part]) -> int:
    """Return the sample frames that a window's files declare, 0 if one of them declares none."""
    frames = [part.description.sample_frames if part.description else 0 for part in window]
    return sum(frames) if all(frames) else 0


def concat_list(audio_format: str, names: Sequence[str], durations: Sequence[float] = ()) -> str:
    """Return the ffconcat list of files in a format.

    FFmpeg probes each of them. It does not follow a file that is itself a list.

    Args:
        audio_format: The format of all the files.
        names: Relative file names that the server has chosen.
        durations: The seconds from the beginning of each file to that of the next. Without them FFmpeg uses the
            lengths that the files declare.
    """
    listing = ["ffconcat version 1.0"]
    for number, name in enumerate(names):
        listing += [f"file {name}", f"option format_whitelist {FORMATS[audio_format].demuxer_names}"]
        listing += [f"duration {durations[number]:.6f}"] if number < len(durations) else []
    return "\n".join(listing) + "\n"


def batch_input(audio_format: str, window: Sequence[Part]) -> list[str]:
    """Return the options before the input of a run over a window's ffconcat list.

    They name the only allowed demuxer and its decoders, and limit how much is read, whatever the files contain.
    """
    plan = FORMATS[audio_format]
    seconds = sum(part.description.sample_frames / part.description.sample_rate for part in window if part.description)
    # Any error ends the run. Otherwise audio that FFmpeg leaves out would be lost unnoticed.
    return [
        *("-xerror", "-err_detect", "crccheck+explode"),
        *("-t", f"{seconds + 1:.3f}"),
        *_whitelist(f"concat,{plan.demuxer_names}", plan.decoders),
        *("-safe", "0"),
    ]


def batch_decoder(audio_format: str) -> str:
    """The decoder that pydub has to use."""
    return FORMATS[audio_format].decoders.split(",")[0]


def _whitelist(demuxers: str, decoders: str, protocols: str = "file,pipe") -> list[str]:
    return ["-protocol_whitelist", protocols, "-format_whitelist", demuxers, "-codec_whitelist", decoders]


def _input(audio_format: str, path: str) -> list[str]:
    plan = FORMATS[audio_format]
    whitelist = _whitelist(plan.demuxer_names, plan.decoders)
    return [*_KEEP_GAPS, *whitelist, "-f", plan.demuxer, "-i", f"file:{path}"]


def _output(track: int = 0) -> list[str]:
    return ["-map", f"0:a:{track}", *_AUDIO_ALONE]


def decode(audio_format: str, path: str, bits: int, *, is_strict: bool = True) -> list[str]:
    """Arguments to decode one file to a WAV stream on standard output, with its own number of bits.

    Damage in a lossless file ends the run if `is_strict` is set. Otherwise the damaged part is left out.
    """
    depth = 16 if bits <= 16 else 24 if bits <= 24 else 32
    strict = ["-xerror", "-err_detect", "crccheck+explode"] if is_strict and audio_format in LOSSLESS else []
    return [*strict, *_input(audio_format, path), *_output(), "-c:a", f"pcm_s{depth}le", "-f", "wav", "pipe:1"]


def decode_timed(audio_format: str, path: str, encoding: str, track: int) -> list[str]:
    """Arguments to decode a track of a container to PCM in Matroska, with the times of its blocks, on standard output.

    Decreasing times are moved like those of packets, because a muxer would leave the later blocks out.
    """
    rising = _rising("PTS").replace("PREV_OUTDURATION", "ld(2)")
    # Variable 2 contains the length of the previous block.
    head, tail = rising.rsplit(";", 1)
    retimed = f"asetpts='{head};st(2,NB_SAMPLES/(SR*TB));{tail}'"
    written = ["-c:a", f"pcm_{encoding}", "-flush_packets", "0", "-f", "matroska", "pipe:1"]
    return [*_input(audio_format, path), *_output(track), "-af", retimed, *written]


def first_packet(audio_format: str, path: str, track: int) -> list[str]:
    """Arguments to copy the first packet of a track to Matroska, whose header declares the number of bits."""
    written = ["-c:a", "copy", "-frames:a", "1", "-f", "matroska", "pipe:1"]
    return [*_input(audio_format, path), *_output(track), *written]


def encoding_of(codec: str, bits: int) -> str:
    """Return the encoding of samples that loses nothing of a codec.

    Args:
        codec: The codec, as Matroska names it.
        bits: The number of bits of its samples, if it is lossless.
    """
    if codec == "A_PCM/FLOAT/IEEE":
        return "f32le"
    is_lossless = codec.startswith("A_PCM/INT/") or codec in ("A_FLAC", "A_ALAC")
    return "s16le" if not is_lossless or bits <= 16 else "s24le" if bits <= 24 else "s32le"


def subfile(name: str, span: Span) -> str:
    """Return the FFmpeg address of a span of a file in the working folder, ready for an ffconcat list."""
    return f"subfile,,start,{span.start},end,{span.end},,:file:{name}"


def header(audio_format: str, address: str) -> list[str]:
    """Arguments to list, as framemd5, the parameters of each audio track of a part, and its first packet if it has one.

    Args:
        audio_format: The format of the part.
        address: What `subfile` returns, or the address of a whole file.
    """
    plan = FORMATS[audio_format]
    whitelist = _whitelist(plan.demuxer_names, plan.decoders, "file,pipe,subfile")
    first = ["-c:a", "copy", "-frames:a", "1", "-f", "framemd5", "pipe:1"]
    return [*whitelist, "-f", plan.demuxer, "-i", address, "-map", "0:a", *_AUDIO_ALONE, *first]


def is_recordable(audio_format: str, codec: str) -> bool:
    """Whether a format is recorded with this codec, as FFmpeg names it."""
    decoders = FORMATS[audio_format].decoders.split(",")
    return ("mp3float" if codec == "mp3" else codec) in decoders


_CODEC_NAMES = {
    "opus": "Opus", "vorbis": "Vorbis", "aac": "AAC", "flac": "FLAC", "mp3float": "MP3", "alac": "ALAC",
    "pcm_s16le": "PCM", "pcm_mulaw": "mu-law", "pcm_alaw": "A-law", "ac3": "AC-3", "eac3": "E-AC-3",
    "apple_apac": "APAC", "wmav2": "WMA",
}  # fmt: skip


def not_recordable(audio_format: str, codecs: Sequence[str]) -> str:
    """Return the sentence about a file whose audio tracks have these codecs, none of which can be recorded."""
    if not codecs:
        return "The file has no audio."
    found = " and ".join(_CODEC_NAMES.get(codec, codec.upper()) for codec in codecs if codec not in ("", "none"))
    decoders = FORMATS[audio_format].decoders.split(",")
    taken = ", ".join(_CODEC_NAMES[decoder] for decoder in decoders if decoder in _CODEC_NAMES)
    return f"The codec of the stream is {found or 'unknown'}; {audio_format} accepts {taken}."


def packets(audio_format: str, path: str) -> list[str]:
    """Arguments to list every packet of a file, with its MD5, as framemd5."""
    return [*_input(audio_format, path), *_output(), "-c:a", "copy", "-f", "framemd5", "pipe:1"]


def _rising(timestamp: str) -> str:
    """Return an FFmpeg expression for the timestamp of a packet, which is moved if it does not increase.

    If timestamps restart, decrease or jump ahead too far, the packet begins at the end of the previous one, and the
    following packets keep their distance from it. As soon as a packet follows without being moved and without a gap, no
    more packets are moved.
    """

    def follows(moved: str, most: str) -> str:
        return f"gt({moved},PREV_OUTPTS)*lte({moved}-PREV_OUTPTS,{most})"

    # Variable 0 contains the timestamp, and 1 the difference by which it is moved.
    own = follows("ld(0)", f"PREV_OUTDURATION+{GAP_SECONDS}/TB")
    shifted = follows("ld(0)+ld(1)", f"{LONGEST_GAP_SECONDS}/TB")
    shift = f"if({shifted},0,st(1,PREV_OUTPTS+PREV_OUTDURATION-ld(0)))"
    return f"st(0,{timestamp});if(gt(N,0),if({own},st(1,0),{shift}));ld(0)+ld(1)"


def _timestamp(audio_format: str) -> str:
    """Return an FFmpeg expression for the timestamp of a packet in its file.

    Ogg has the times at which pages end. FFmpeg puts the first packet of a page after a gap before the gap, although it
    belongs to the next packet.
    """
    if audio_format != "ogg":
        return "PTS"
    gap = "NEXT_PTS-PTS-DURATION"
    return f"PTS+if(gt({gap},{GAP_SECONDS}/TB)*lte({gap},{LONGEST_GAP_SECONDS}/TB),{gap})"


def _retimed(timestamp: str) -> list[str]:
    return ["-bsf:a", f"setts=ts='{_rising(timestamp)}'"]


def _packets(audio_format: str) -> list[str]:
    """Return the arguments to list every packet, as framemd5, with increasing timestamps, in large blocks."""
    return ["-c:a", "copy", *_retimed(_timestamp(audio_format)), "-flush_packets", "0", "-f", "framemd5", "pipe:1"]


def timed_packets(audio_format: str, listing: str, track: int) -> list[str]:
    """Arguments to list every packet of an ffconcat list, as framemd5, with increasing timestamps as in `remux`."""
    return ["-copyts", *_listed(audio_format, listing), *_output(track), *_packets(audio_format)]


def packet_positions(audio_format: str, listing: str, track: int) -> list[str]:
    """Arguments to list every packet of an ffconcat list of one file, with its position in the file as its time."""
    told = ["-c:a", "copy", "-bsf:a", "setts=ts=POS", "-flush_packets", "0", "-f", "framemd5", "pipe:1"]
    return ["-copyts", *_listed(audio_format, listing), *_output(track), *told]


def bytes_of(audio_format: str, listing: str, track: int) -> list[str]:
    """Arguments to write the contents of all packets of an ffconcat list to standard output."""
    return [*_listed(audio_format, listing), *_output(track), "-c:a", "copy", "-f", "data", "pipe:1"]


def _listed(audio_format: str, listing: str) -> list[str]:
    plan = FORMATS[audio_format]
    whitelist = _whitelist(f"concat,{plan.demuxer_names}", plan.decoders, "file,pipe,subfile")
    return [*whitelist, "-f", "concat", "-safe", "0", "-i", f"file:{listing}"]


def remux(audio_format: str, path: str, output: str, copied: "Copied") -> list[str]:
    """Arguments to copy a stream's packets into a container with its duration and index."""
    return [*_input(audio_format, path), *_copy(audio_format, output, copied)]


def remux_parts(audio_format: str, listing: str, output: str, copied: "Copied") -> list[str]:
    """Arguments to copy the packets of all parts of an ffconcat list, timestamps continued; any error ends the run."""
    return ["-xerror", "-copyts", *_listed(audio_format, listing), *_copy(audio_format, output, copied)]


@dataclass(frozen=True, slots=True)
class Copied:
    """The audio track that is copied into a container: its number, and its codec as FFmpeg names it.

    `has_gaps` is set if its timeline has gaps.
    """

    track: int
    codec: str
    has_gaps: bool = False


def _copy(audio_format: str, output: str, copied: Copied) -> list[str]:
    # If the sound begins after the picture, the recording begins with the sound. Samples before zero are priming.
    options = ["-c:a", "copy", *_retimed(f"{_timestamp(audio_format)}-max(STARTPTS,0)")]
    if audio_format == "mp4":
        options += ["-movflags", "+faststart"]
    if audio_format == "ogg" and copied.has_gaps:
        # Ogg has times of pages only, so a gap within a page would move the packets before it.
        options += ["-page_duration", "1"]
    muxer = _muxer(audio_format, copied.codec)
    return [*_output(copied.track), *options, "-f", muxer, "-y", f"file:{output}"]


def _muxer(audio_format: str, codec: str) -> str:
    """Return FFmpeg's muxer for a codec: that of the format, or a more general one if necessary."""
    if audio_format == "webm" and codec not in ("opus", "vorbis"):
        return "matroska"
    if audio_format == "mp4" and codec.startswith("pcm_"):
        return "mov"
    return FORMATS[audio_format].muxer


_DEMUXED = {"m4a": "mp4", "opus": "ogg"}


def chapters(audio_format: str, path: str, metadata: str, output: str, head: bytes) -> list[str]:
    """Arguments to copy the packets of a recording or a transcode into a file with chapters.

    For an MP3 file the output contains only the tag and one frame.

    Args:
        audio_format: The format of both files.
        path: The file.
        metadata: The chapters (`audio.media.chapters`).
        output: The file to write.
        head: The beginning of the file, which shows the muxer that has written it.
    """
    container = _DEMUXED.get(audio_format, audio_format)
    given = [*_whitelist("ffmetadata", "", "file"), "-f", "ffmetadata", "-i", f"file:{metadata}"]
    return [
        *_input(container, path),
        *given,
        *("-map", "0:a:0", "-vn", "-sn", "-dn", "-c:a", "copy", *_chapter_options(audio_format)),
        *("-f", _muxer_of(container, head), "-y", f"file:{output}"),
    ]


def _chapter_options(audio_format: str) -> list[str]:
    """Return the options that write chapters into a format without moving its packets."""
    mapped = ["-map_metadata:g", "-1", "-map_chapters", "1"]
    if audio_format in IN_COMMENTS:
        mapped = ["-map_metadata:g", "1:g", "-map_metadata:s:a:0", "1:g", "-map_chapters", "-1"]
    retimed = _retimed(_timestamp(audio_format)) if audio_format in CONTAINERS else []
    options = {
        # FFmpeg misreads long titles in the newer version of ID3.
        "mp3": ["-id3v2_version", "3", "-write_xing", "0", "-frames:a", "1"],
        "mp4": ["-movflags", "+faststart"],
        "m4a": ["-movflags", "+faststart"],
        # As in `_copy`, for a recording with gaps.
        "ogg": ["-page_duration", "1"],
    }
    return [*mapped, *retimed, *options.get(audio_format, [])]


def _muxer_of(container: str, head: bytes) -> str:
    """Return the muxer that has written a file: see `_muxer`."""
    if container == "webm" and b"matroska" in head:
        return "matroska"
    if container == "mp4" and head[4:10] == b"ftypqt":
        return "mov"
    return FORMATS[container].muxer


def encode(audio_format: str, path: str, output: str, encoding: str) -> list[str]:
    """Arguments to encode a WAV master, whose samples have `encoding`, to a format."""
    plan = FORMATS[audio_format]
    # 24-bit FLAC is made from 32-bit samples with eight zeros.
    deep = ["-sample_fmt", "s32"] if audio_format == "flac" and encoding in ("s24le", "s32le") else []
    return [*_input("wav", path), *_output(), "-c:a", *plan.encoder, *deep, "-f", plan.muxer, "-y", f"file:{output}"]


@dataclass(frozen=True, slots=True)
class Target:
    """A format to which recordings can be transcoded, and how FFmpeg writes it."""

    muxer: tuple[str, ...]
    encoder: tuple[str, ...]
    content_type: str


TARGETS = {
    "wav": Target(("wav", "-rf64", "auto"), (), "audio/wav"),
    "mp3": Target(("mp3",), ("libmp3lame", "-q:a", "2"), "audio/mpeg"),
    "flac": Target(("flac",), ("flac",), "audio/flac"),
    "aac": Target(("adts",), ("aac",), "audio/aac"),
    "m4a": Target(("mp4", "-movflags", "+faststart"), ("aac",), "audio/mp4"),
    "opus": Target(("ogg",), ("libopus",), "audio/ogg"),
}
_FLAC_DEPTHS = {
    "s24le": ("-sample_fmt", "s32", "-bits_per_raw_sample", "24"),
    # FFmpeg's encoder calls more than 24 bits experimental, but its output is exact (RFC 9639 allows 32).
    "s32le": ("-sample_fmt", "s32", "-bits_per_raw_sample", "32", "-strict", "experimental"),
    "f32le": ("-sample_fmt", "s32", "-bits_per_raw_sample", "24"),
}


def transcode(source: str, path: str, target: str, output: str, encoding: str) -> list[str]:
    """Arguments to transcode a file of format `source`, whose samples have `encoding`, to `target`."""
    return [*_input(source, path), *_output(), *_made(target, output, encoding)]


def transcode_samples(pcm: PcmFormat, target: str, output: str) -> list[str]:
    """Arguments to transcode samples of this format from standard input to `target`."""
    given = ["-f", pcm.encoding, "-ar", str(pcm.sample_rate), "-ac", str(pcm.channels), "-i", "pipe:0"]
    whitelist = _whitelist(pcm.encoding, f"pcm_{pcm.encoding}")
    return [*whitelist, *given, *_output(), *_made(target, output, pcm.encoding)]


def _made(target: str, output: str, encoding: str) -> list[str]:
    plan = TARGETS[target]
    encoder = plan.encoder or (f"pcm_{encoding}",)
    depth = _FLAC_DEPTHS.get(encoding, ("-sample_fmt", "s16")) if target == "flac" else ()
    return ["-c:a", *encoder, *depth, "-f", *plan.muxer, "-y", f"file:{output}"]
