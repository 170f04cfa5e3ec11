"""What a session, a chunk and a recording look like over HTTP, and what a new session may be asked to be.

The keys and their order are the contract. Values are checked by the same code as those of a WebSocket's URL,
so that both doors refuse the same things with the same sentence.
"""

from typing import Any

from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.reverse import reverse

from audio.errors import InvalidParameter
from audio.ingest import default_parameters
from audio.media import wav
from audio.media.waveform import FULL_SCALE, Waveform
from audio.models import AudioChunk, AudioSession, Recording, RecordingState, Recovery
from audio.storage import downloads
from audio.wire.parameters import (
    CHANNELS,
    CHUNK_MODES,
    ENCODINGS,
    FORMATS,
    LABEL_MAX_LENGTH,
    SAMPLE_RATES_HZ,
    SessionParameters,
    parse_label,
    parse_value,
    undecided_among,
)

FETCHABLE_STATES = (RecordingState.LIVE, RecordingState.BUILDING, RecordingState.READY)
_RECEIVED_MAX_LENGTH = 100


class ParameterField(serializers.ChoiceField):
    """One of a session's parameters. Raises InvalidParameter, with the valid values, for any other."""

    def __init__(self, values: tuple[str | int, ...], **options: Any) -> None:
        super().__init__([(value, str(value)) for value in values], required=False, **options)

    def to_internal_value(self, data: Any) -> Any:
        return parse_value(str(self.field_name), str(data)[:_RECEIVED_MAX_LENGTH])


class LabelField(serializers.CharField):
    """A client's own label. Raises InvalidParameter if it is empty, too long or no text."""

    def to_internal_value(self, data: Any) -> str:
        return parse_label(str(self.field_name), str(super().to_internal_value(data)))


class NewSessionSerializer(serializers.Serializer[AudioSession]):
    """The parameters of a new session. Where the format, the rate or the channels are absent, the audio's own header
    decides them; audio without a header has the server's defaults."""

    sample_rate = ParameterField(
        SAMPLE_RATES_HZ,
        initial=lambda: settings.DEFAULT_SAMPLE_RATE,
        help_text="Hz. If absent, that of the audio's header, else the server's default.",
    )
    channels = ParameterField(
        CHANNELS,
        initial=lambda: settings.DEFAULT_CHANNELS,
        help_text="If absent, those of the audio's header, else the server's default.",
    )
    format = ParameterField(
        FORMATS,
        initial=lambda: settings.DEFAULT_FORMAT,
        help_text="What the client sends, and what the recording is. `aac` is ADTS. If absent, what the first bytes "
        "say; raw samples have the server's default.",
    )
    encoding = ParameterField(ENCODINGS, initial="s16le", help_text="Of headerless PCM under `wav`; `s16le` if absent.")
    chunks = ParameterField(
        CHUNK_MODES,
        initial="auto",
        help_text="`stream`: one stream, cut anywhere. `files`: each message is a complete file. `auto` if absent.",
    )
    user_id = LabelField(
        required=False,
        allow_null=True,
        max_length=LABEL_MAX_LENGTH,
        trim_whitespace=False,
        help_text="The client's own label.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        # A form of the browsable pages carries its token among the fields.
        unknown = set(self.initial_data) - set(self.fields) - {"csrfmiddlewaretoken"}
        if unknown:
            name = min(unknown)[:_RECEIVED_MAX_LENGTH]
            raise InvalidParameter(f"There is no field {name!r}.", parameter=name, valid_values=list(self.fields))
        return attrs

    def parameters(self) -> SessionParameters:
        """Returns the parameters of the session that the validated request asks for."""
        named = {name: value for name, value in self.validated_data.items() if name != "user_id"}
        return SessionParameters(**{**default_parameters().as_dict(), **named})

    def undecided(self) -> list[str]:
        """Return the names of the parameters that the media decide, because the request does not name them."""
        return undecided_among(self.validated_data)


class FailureSerializer(serializers.Serializer[Recording]):
    """Why there is no recording."""

    detail = serializers.CharField(source="error_detail", read_only=True)
    code = serializers.CharField(source="error_code", read_only=True)
    sequence = serializers.IntegerField(
        source="failed_sequence", read_only=True, allow_null=True, help_text="The chunk that is at fault, where known."
    )


class WarningSerializer(serializers.Serializer[Any]):
    """Something that was sent and is not in the recording as it came."""

    code = serializers.CharField(read_only=True, help_text="What is wrong, for programs.")
    detail = serializers.CharField(read_only=True, help_text="A sentence for people; it may be reworded.")
    first_sequence = serializers.IntegerField(read_only=True, allow_null=True, help_text="The first chunk of it.")
    last_sequence = serializers.IntegerField(read_only=True, allow_null=True, help_text="The last chunk of it.")
    start_seconds = serializers.FloatField(
        read_only=True, allow_null=True, help_text="Where it would be in the recording, or is."
    )
    end_seconds = serializers.FloatField(read_only=True, allow_null=True)


class RecordingSerializer(serializers.ModelSerializer[Recording]):
    """A session's recording: where it is fetched from, how far it is."""

    url = serializers.SerializerMethodField(help_text="Where to fetch it; null while there is nothing to fetch.")
    format = serializers.SerializerMethodField()
    sha256 = serializers.CharField(
        read_only=True, help_text="Of the recording's bytes, in hexadecimal; empty until just after `ready`."
    )
    sample_rate = serializers.SerializerMethodField(help_text="Hz; null while it is not known.")
    channels = serializers.SerializerMethodField(help_text="Null while they are not known.")
    warnings = WarningSerializer(
        many=True, read_only=True, help_text="What came and is not in the recording as it came. Bounded."
    )
    progress = serializers.FloatField(read_only=True, help_text="From 0 to 1 while `state` is `building`.")
    error = serializers.SerializerMethodField(help_text="Why, if `state` is `failed`; else null.")
    partial_url = serializers.SerializerMethodField(
        help_text="Where to fetch the part that could be made, if `state` is `failed` and there is one; else null."
    )

    class Meta:
        model = Recording
        fields = [
            "state",
            "url",
            "format",
            "size_bytes",
            "duration_seconds",
            "sha256",
            "progress",
            "error",
            "sample_rate",
            "channels",
            "warnings",
            "partial_url",
        ]
        read_only_fields = fields

    @extend_schema_field({"type": "string", "format": "uri", "nullable": True})
    def get_url(self, recording: Recording) -> str | None:
        if recording.state not in FETCHABLE_STATES:
            return None
        return reverse("session-audio", [recording.session_id], request=self.context.get("request"))

    @extend_schema_field({"type": "string", "format": "uri", "nullable": True})
    def get_partial_url(self, recording: Recording) -> str | None:
        if not downloads.has_part(recording):
            return None
        return f"{reverse('session-audio', [recording.session_id], request=self.context.get('request'))}?partial=true"

    @extend_schema_field(serializers.ChoiceField(FORMATS))
    def get_format(self, recording: Recording) -> str:
        return recording.format or recording.session.format

    @extend_schema_field({"type": "integer", "nullable": True})
    def get_sample_rate(self, recording: Recording) -> int | None:
        return recording.sample_rate or None

    @extend_schema_field({"type": "integer", "nullable": True})
    def get_channels(self, recording: Recording) -> int | None:
        return recording.channels or None

    @extend_schema_field(FailureSerializer(allow_null=True))
    def get_error(self, recording: Recording) -> dict[str, Any] | None:
        return FailureSerializer(recording).data if recording.state == RecordingState.FAILED else None


class SessionSerializer(serializers.ModelSerializer[AudioSession]):
    """A session and its recording."""

    session_id = serializers.UUIDField(source="id", read_only=True)
    file_path = serializers.SerializerMethodField(
        help_text="The recording's file, relative to the storage root; null until it is ready."
    )
    duration_seconds = serializers.SerializerMethodField(
        help_text="Of the recording, or of what is recorded so far; null where that is not known exactly."
    )
    connections = serializers.IntegerField(
        source="connection_count", read_only=True, help_text="WebSockets that may write to the session now."
    )
    recording = serializers.SerializerMethodField()
    recovered = serializers.SerializerMethodField(
        help_text="Null, or that the session was read again from the journals: `exact`; `uncertain` where the order or"
        " the number of its last chunks is not known for sure; `pending` until that is finished."
    )

    class Meta:
        model = AudioSession
        fields = [
            "session_id",
            "user_id",
            "start_time",
            "status",
            "file_path",
            "total_chunks",
            "duration_seconds",
            "sample_rate",
            "channels",
            "format",
            "end_time",
            "byte_count",
            "connections",
            "recording",
            "recovered",
        ]
        read_only_fields = fields

    @extend_schema_field({"type": "string", "nullable": True})
    def get_file_path(self, session: AudioSession) -> str | None:
        return recording_of(session).file_name or None

    @extend_schema_field({"type": "number", "format": "double", "nullable": True})
    def get_duration_seconds(self, session: AudioSession) -> float | None:
        return duration_seconds(session, recording_of(session))

    @extend_schema_field(serializers.ChoiceField([value for value in Recovery.values if value], allow_null=True))
    def get_recovered(self, session: AudioSession) -> str | None:
        return session.recovered or None

    @extend_schema_field(RecordingSerializer)
    def get_recording(self, session: AudioSession) -> dict[str, Any]:
        return RecordingSerializer(recording_of(session), context=self.context).data


class CreatedSessionSerializer(SessionSerializer):
    """A new session, and the address at which a client sends its audio."""

    websocket_url = serializers.SerializerMethodField(
        help_text="Where to send the audio. Its ticket holds for a short time and for this session alone."
    )

    class Meta(SessionSerializer.Meta):
        fields = [*SessionSerializer.Meta.fields, "websocket_url"]
        read_only_fields = fields

    @extend_schema_field(OpenApiTypes.URI)
    def get_websocket_url(self, session: AudioSession) -> str:
        return str(self.context["websocket_url"])


class ClosedSessionSerializer(serializers.Serializer[AudioSession]):
    """The answer to closing a session."""

    success = serializers.BooleanField()
    session_id = serializers.UUIDField()
    final_info = SessionSerializer()


class ChunkSerializer(serializers.ModelSerializer[AudioChunk]):
    """One acknowledged chunk."""

    source = serializers.SerializerMethodField(  # type: ignore[assignment]
        help_text="The name of the producer that sent it; null if it has none."
    )
    is_released = serializers.SerializerMethodField(
        help_text="Whether its bytes were given up some time after the recording was made; the recording has them."
    )

    class Meta:
        model = AudioChunk
        fields = ["sequence", "size_bytes", "received_at", "source", "is_released"]
        read_only_fields = fields

    def get_is_released(self, chunk: AudioChunk) -> bool:
        return chunk.journal.removed_at is not None

    @extend_schema_field({"type": "string", "nullable": True})
    def get_source(self, chunk: AudioChunk) -> str | None:
        return chunk.source.name or None


class WaveformSerializer(serializers.Serializer[Waveform]):
    """Peaks of a span of a recording; full scale is 1."""

    sample_rate = serializers.IntegerField(help_text="Of the recording, in Hz.")
    duration_seconds = serializers.FloatField(help_text="Of the recording, or of what is recorded so far.")
    start_seconds = serializers.FloatField()
    end_seconds = serializers.FloatField()
    minimum = serializers.SerializerMethodField(help_text="The lowest sample of each point.")
    maximum = serializers.SerializerMethodField(help_text="The highest sample of each point.")

    @extend_schema_field(serializers.ListField(child=serializers.FloatField()))
    def get_minimum(self, shown: Waveform) -> list[float]:
        return [round(value / FULL_SCALE, 4) for value in shown.pairs[:, 0].tolist()]

    @extend_schema_field(serializers.ListField(child=serializers.FloatField()))
    def get_maximum(self, shown: Waveform) -> list[float]:
        return [round(value / FULL_SCALE, 4) for value in shown.pairs[:, 1].tolist()]


def recording_of(session: AudioSession) -> Recording:
    """Returns the session's recording: the row, or an empty one where none was made yet."""
    return session.recording if hasattr(session, "recording") else Recording(session=session)


def duration_seconds(session: AudioSession, recording: Recording) -> float | None:
    """Returns the length of a ready recording, else of the samples that are concatenated so far.

    Returns None for a compressed stream that is not ready: its bytes do not tell.
    """
    if recording.duration_seconds is not None:
        return recording.duration_seconds
    if not session.total_chunks:
        return 0.0
    if not recording.master_encoding or not recording.master_bytes:
        return None
    pcm = downloads.master_format(session, recording)
    return (recording.master_bytes - wav.HEADER_BYTES) // pcm.frame_bytes / pcm.sample_rate
