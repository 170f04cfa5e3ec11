"""PURE. The decision whether a message may be stored, by the beginning of the audio of its connection.

1. The boundaries of messages do not matter at the beginning of the audio. Until its first bytes decide the format,
   their messages are stored, because the client waits for an answer to each.
2. Content of another format than that of the session is rejected, and so is everything after it, because the rest of a
   rejected stream would be stored as noise. A named source has to connect again, so that its stored chunks are always
   the first ones that it has sent. An unnamed source continues with the next message that begins with a fitting header.
3. If the client did not name the format, the first bytes decide it. If they are the middle of a stream, frames are
   recorded in their format, and a container is rejected because its header is missing. All other bytes have the
   default format of the server, which is `wav` unless the operator has set another.
4. `chunks` decides about later messages. Under `files` each message is checked like a first one. Under `auto` a message
   is rejected if it clearly begins with the header of another container. Under `stream` no message is rejected.
"""

from audio import sniff
from audio.errors import AudioError, FormatMismatchError, MissingHeaderError
from audio.sniff import Container

# Enough for the rest of a frame and three more ADTS frames of the largest size, or two more FLAC frames of usual size.
HEAD_BYTES = 1 << 15
# The middle of a stream can be recognised within this many bytes.
_MIDDLE_BYTES = sniff.FLAC_WITHIN_BYTES
_TAGGED_WAV = "The stream begins with an ID3 tag instead of a WAV header. Send the audio without the tag."
_NO_FRAMES = {
    "mp3": "The beginning of the stream has no consecutive MP3 frames.",
    "aac": "The beginning of the stream has no consecutive ADTS frames. Raw AAC and LATM are not recorded.",
}


class Admission:
    """The decisions about the messages of one connection.

    Attributes:
        audio_format: The format of the session, or the default format while it is undecided.
    """

    def __init__(
        self,
        audio_format: str,
        chunk_mode: str,
        *,
        is_undecided: bool = False,
        has_begun: bool = False,
        is_named: bool = False,
    ) -> None:
        self.audio_format = audio_format
        self.is_undecided = is_undecided
        # The format that the last message decides. The connection makes it durable, then calls `decide`.
        self.found = ""
        self._is_files = chunk_mode == "files"
        self._is_stream = chunk_mode == "stream"
        self._is_named = is_named
        self._is_continuing = has_begun
        self._is_judged = has_begun and self._is_stream
        self._head = b""
        # The stream whose middle the beginning is, and the number of bytes at which it is looked for again.
        self._joined: Container | None = None
        self._look_at_bytes = 0
        self._has_tag = False
        self._tag_bytes_left = 0
        self._rejected: AudioError | None = None

    def recall(self, stored: bytes) -> None:
        """Continue after bytes that an earlier connection stored and that did not decide the session's format."""
        self._extend(stored)
        self._is_continuing = False

    def rejection(self, payload: bytes) -> AudioError | None:
        """Return why a message may not be stored, None if it may.

        Afterwards `found` is the format that the bytes so far decide, if they decide one.
        """
        if not payload:
            return None
        if self._rejected is not None:
            if self._is_named or not self._fits(payload):
                return self._rejected
            self._begin_anew()
        if self._is_judged and not self._is_files:
            return None if self._is_stream else self._note(self._contradiction(payload))
        if self._is_files:
            self._begin_anew()
        is_first = not self._head
        self._extend(payload)
        rejection = self._judge()
        if rejection is None and not (is_first or self._is_stream) and (self.found or not self.is_undecided):
            rejection = self._contradiction(payload)
        return self._note(rejection)

    def decide(self, audio_format: str) -> AudioError | None:
        """Set the session's format, which another connection may have decided.

        Returns:
            Why the last message does not fit that format, None if it fits.
        """
        self.audio_format, self.is_undecided, self.found = audio_format, False, ""
        return self._note(self._judge())

    def conclude(self) -> str:
        """Return the format of a stream that has ended before its bytes were enough to decide it."""
        container = sniff.identify(self._head, is_all=True)
        if self._has_tag and container is Container.UNKNOWN:
            container = Container.ID3
        if container is Container.UNKNOWN:
            container = self._middle(is_all=True)
        return sniff.FORMATS.get(container, self.audio_format) if container is not None else self.audio_format

    def _note(self, rejection: AudioError | None) -> AudioError | None:
        # Under `files` the next message is a file of its own. But a named source must not have a hole.
        if rejection is not None and (self._is_named or not self._is_files):
            self._rejected = rejection
        return rejection

    def _begin_anew(self) -> None:
        self._rejected, self._is_judged, self._is_continuing = None, False, False
        self._head, self._has_tag, self._tag_bytes_left = b"", False, 0
        self._joined, self._look_at_bytes = None, 0

    def _extend(self, payload: bytes) -> None:
        """Add a message to the beginning, without ID3 tags."""
        skipped = min(self._tag_bytes_left, len(payload))
        self._tag_bytes_left -= skipped
        head = self._head + payload[skipped:]
        if not self._tag_bytes_left:
            behind, self._tag_bytes_left = sniff.behind_tags(head)
            self._has_tag = self._has_tag or len(behind) < len(head)
            head = behind
        self._head = head[:HEAD_BYTES]

    def _judge(self) -> AudioError | None:
        """Judge the beginning as far as it has come."""
        container = sniff.identify(self._head, self._is_files)
        if self._has_tag and container is Container.UNKNOWN:
            container = Container.ID3
        if container is Container.UNKNOWN and self.audio_format == "wav" and not self._is_continuing:
            # A format that the client has named is accepted if the first message does not contradict it.
            container = self._middle(self._is_files or not self.is_undecided)
        if not self.is_undecided:
            return self._judge_as(self.audio_format, container)
        if container is None:
            return None
        is_recorded = container in sniff.FORMATS or container is Container.UNKNOWN
        audio_format = sniff.FORMATS.get(container, self.audio_format)
        rejection = self._judge_as(audio_format, container) if is_recorded else self._mismatch(container)
        if rejection is None:
            self.found = audio_format
        return rejection

    def _middle(self, is_all: bool) -> Container | None:
        """Return the container whose middle the beginning is: UNKNOWN for raw PCM, None if it is not known yet.

        The search is repeated only when the beginning has doubled, so that small messages cost no more than large ones.
        """
        if self._joined is None and len(self._head) >= self._look_at_bytes:
            self._joined = sniff.joined(self._head)
            limit = _MIDDLE_BYTES if len(self._head) < _MIDDLE_BYTES else HEAD_BYTES
            self._look_at_bytes = min(limit, 2 * len(self._head))
        if self._joined is None and (is_all or len(self._head) >= self._most_middle_bytes()):
            self._joined = Container.UNKNOWN
        return self._joined

    def _most_middle_bytes(self) -> int:
        """Return the number of bytes after which a beginning counts as raw PCM. FLAC has the longest frames."""
        return _MIDDLE_BYTES if sniff.finds_flac_frames(self._head) is False else HEAD_BYTES

    def _judge_as(self, audio_format: str, container: Container | None) -> AudioError | None:
        """Judge the beginning as one of a stream of that format."""
        if container is not None and not sniff.accepts(audio_format, container):
            return self._mismatch(container)
        if self._has_tag and audio_format == "wav":
            return FormatMismatchError(_TAGGED_WAV, received=str(Container.ID3), valid_values=[audio_format])
        if self._is_continuing or audio_format == "wav":
            self._is_judged = container is not None
            return None
        if audio_format in _NO_FRAMES:
            return self._judge_frames(audio_format)
        if sniff.lacks_header(audio_format, self._head):
            return MissingHeaderError(valid_values=[audio_format])
        self._is_judged = container is not None
        return None

    def _judge_frames(self, audio_format: str) -> AudioError | None:
        """Judge a stream of frames, which has no header of its own."""
        if audio_format == "mp3" and sniff.is_free_format(self._head):
            return self._mismatch(Container.FREE_FORMAT)
        found = sniff.finds_frames(audio_format, self._head, self._is_files)
        if found is None and len(self._head) < HEAD_BYTES:
            return None
        self._is_judged = True
        if found:
            return None
        return FormatMismatchError(
            _NO_FRAMES[audio_format], received=str(Container.UNKNOWN), valid_values=[audio_format]
        )

    def _contradiction(self, payload: bytes) -> AudioError | None:
        container = sniff.contradicts(self.found or self.audio_format, payload)
        return None if container is None else self._mismatch(container)

    def _fits(self, payload: bytes) -> bool:
        """Return whether a message, after a rejected one, begins with a header of the session's format."""
        container = sniff.sniff(payload)
        if container not in sniff.FORMATS or self.is_undecided:
            return container in sniff.FORMATS
        behind, _ = sniff.behind_tags(payload)
        return sniff.accepts(self.audio_format, container) and not sniff.lacks_header(self.audio_format, behind)

    def _mismatch(self, container: Container) -> FormatMismatchError:
        begins = f"The message begins as {sniff.NAMES[container]}"
        details = {"received": str(container), "valid_values": [self.audio_format]}
        if (right := sniff.FORMATS.get(container)) is not None:
            sentence = (
                f"{begins}, but the format of the session is {self.audio_format}. Open a session with format={right}."
            )
            return FormatMismatchError(sentence, **details, format=right)
        if self.is_undecided:
            details["valid_values"] = list(dict.fromkeys(sniff.FORMATS.values()))
            return FormatMismatchError(f"{begins}, which the server does not record.", **details)
        return FormatMismatchError(
            f"{begins}, which the server does not record. The format of the session is {self.audio_format}.", **details
        )
