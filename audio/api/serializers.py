"""The JSON of sessions, chunks and recordings, and of requests for new sessions.

The keys and their order are part of the contract. The same code checks the values and those in the URL of a WebSocket,
so that both reject the same values with the same sentence.
"""

from typing import Any, ClassVar

from django.conf import settings
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.reverse import reverse

from audio.errors import InvalidParameterError
from audio.ingest import default_parameters
from audio.media.waveform import FULL_SCALE, Waveform
from audio.models import AudioChunk, AudioSession, Recording, RecordingState, Recovery
from audio.storage import downloads
from audio.wire.parameters import (
    CHANNELS,
    CHUNK_MODES,
    ENCODINGS,
    FORMATS,
    LABEL_MAX_LENGTH,
    METADATA_MAX_BYTES,
    METADATA_MAX_KEYS,
    RETENTION_MAX_DAYS,
    SAMPLE_RATES_HZ,
    Details,
    SessionParameters,
    merge_metadata,
    parse_label,
    parse_metadata,
    parse_retention_days,
    parse_value,
    undecided_among,
)

FETCHABLE_STATES = (RecordingState.LIVE, RecordingState.BUILDING, RecordingState.READY)
_RECEIVED_MAX_LENGTH = 100
_MOST_DIGITS = 9
_DETAILS = ("name", "metadata", "retention_days", "legal_hold")


class ParameterField(serializers.ChoiceField):
    """A parameter of a session. It raises InvalidParameterError, with the valid values, for any other value."""

    def __init__(self, values: tuple[str | int, ...], **options: Any) -> None:
        super().__init__([(value, str(value)) for value in values], required=False, **options)

    def to_internal_value(self, data: Any) -> Any:
        """Return the value of the parameter."""
        return parse_value(str(self.field_name), str(data)[:_RECEIVED_MAX_LENGTH])


class LabelField(serializers.CharField):
    """A label of the client's choice. It raises InvalidParameterError for an empty or too long label, or no text."""

    def to_internal_value(self, data: Any) -> str:
        """Return the label."""
        return parse_label(str(self.field_name), str(super().to_internal_value(data)))


@extend_schema_field({"type": "object", "additionalProperties": {"type": "string"}, "maxProperties": METADATA_MAX_KEYS})
class MetadataField(serializers.Field[Any, Any, Any, Any]):
    """The metadata of a new session. It raises InvalidParameterError unless they are a small flat map of strings."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the metadata."""
        return parse_metadata(data)

    def to_representation(self, value: Any) -> Any:
        """Return the metadata."""
        return value


@extend_schema_field({"type": "object", "additionalProperties": {"type": "string", "nullable": True}, "nullable": True})
class MetadataChangesField(MetadataField):
    """Changes of metadata. It raises InvalidParameterError for changes that are invalid for every session."""

    def to_internal_value(self, data: Any) -> Any:
        """Return the changes."""
        merge_metadata({}, data)
        return data


@extend_schema_field({"type": "integer", "minimum": 0, "maximum": RETENTION_MAX_DAYS, "nullable": True})
class RetentionField(serializers.Field[Any, Any, Any, Any]):
    """A number of days. It raises InvalidParameterError for anything else."""

    def to_internal_value(self, data: Any) -> int:
        """Return the number of days. Forms have it as text."""
        is_digits = isinstance(data, str) and data.isascii() and data.isdigit() and len(data) <= _MOST_DIGITS
        return parse_retention_days(int(data) if is_digits else data)

    def to_representation(self, value: Any) -> Any:
        """Return the number of days."""
        return value


class FlagField(serializers.BooleanField):
    """A flag. It raises InvalidParameterError for anything but true and false, or the same words in a form."""

    def to_internal_value(self, data: Any) -> bool:
        """Return the flag."""
        if data not in (True, False, "true", "false") or (
            isinstance(data, (int, float)) and not isinstance(data, bool)
        ):
            raise InvalidParameterError(
                f"{self.field_name} must be true or false.",
                parameter=self.field_name,
                received=str(data)[:_RECEIVED_MAX_LENGTH],
                valid_values=[True, False],
            )
        return data in (True, "true")


_NAME_HELP = "A title of the client's choice."
_METADATA_HELP = (
    f"Strings of the client's choice by their keys: at most {METADATA_MAX_KEYS} keys, and {METADATA_MAX_BYTES} bytes"
    " of keys and values together."
)
_RETENTION_HELP = (
    "How many days after its end the session is deleted. 0 means never. Null means the number of its project, or else "
    "that of the server."
)
_HOLD_HELP = "If true, nobody can delete the session."


def without_unknown(serializer: serializers.BaseSerializer[Any]) -> None:
    """Raise InvalidParameterError if the request has a field that the serializer does not have."""
    # Forms of the browsable pages send their CSRF token as a field.
    fields: Any = serializer
    unknown = set(fields.initial_data) - set(fields.fields) - {"csrfmiddlewaretoken"}
    if unknown:
        name = min(unknown)[:_RECEIVED_MAX_LENGTH]
        raise InvalidParameterError(f"There is no field {name!r}.", parameter=name, valid_values=list(fields.fields))


class ClosedSerializer(serializers.Serializer[Any]):
    """A request body that rejects unknown fields."""

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Reject unknown fields."""
        without_unknown(self)
        return attrs


class DetailsSerializer(serializers.Serializer[AudioSession]):
    """Changes of a session's details. Absent fields do not change."""

    name = LabelField(
        required=False, allow_null=True, max_length=LABEL_MAX_LENGTH, trim_whitespace=False, help_text=_NAME_HELP
    )
    metadata = MetadataChangesField(
        required=False,
        allow_null=True,
        help_text=f"{_METADATA_HELP} Absent keys do not change. Null removes a key; null for all removes all.",
    )
    retention_days = RetentionField(required=False, allow_null=True, help_text=_RETENTION_HELP)
    legal_hold = FlagField(required=False, help_text=_HOLD_HELP)

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Reject unknown fields."""
        without_unknown(self)
        return attrs


class NewSessionSerializer(serializers.Serializer[AudioSession]):
    """The parameters of a new session.

    If the format, the sample rate or the channels are absent, the header of the audio decides. Audio without a header
    gets the defaults of the server.
    """

    sample_rate = ParameterField(
        SAMPLE_RATES_HZ,
        initial=lambda: settings.DEFAULT_SAMPLE_RATE,
        help_text="In Hz. If absent, it is read from the header of the audio. Otherwise the server has a default.",
    )
    channels = ParameterField(
        CHANNELS,
        initial=lambda: settings.DEFAULT_CHANNELS,
        help_text="If absent, they are read from the header of the audio. Otherwise the server has a default.",
    )
    format = ParameterField(
        FORMATS,
        initial=lambda: settings.DEFAULT_FORMAT,
        help_text="The format of the audio and of the recording. `aac` is ADTS. If absent, the first bytes decide. Raw "
        "samples get the default of the server.",
    )
    encoding = ParameterField(
        ENCODINGS, initial="s16le", help_text="The encoding of raw PCM under `wav`. The default is `s16le`."
    )
    chunks = ParameterField(
        CHUNK_MODES,
        initial="auto",
        help_text="`stream`: one stream, cut anywhere. `files`: each message is a whole file. The default is `auto`.",
    )
    user_id = LabelField(
        required=False,
        allow_null=True,
        max_length=LABEL_MAX_LENGTH,
        trim_whitespace=False,
        help_text="A label of the client's choice.",
    )
    name = LabelField(
        required=False, allow_null=True, max_length=LABEL_MAX_LENGTH, trim_whitespace=False, help_text=_NAME_HELP
    )
    metadata = MetadataField(required=False, help_text=_METADATA_HELP)
    retention_days = RetentionField(required=False, allow_null=True, help_text=_RETENTION_HELP)
    legal_hold = FlagField(required=False, help_text=_HOLD_HELP)

    project = LabelField(
        required=False,
        max_length=LABEL_MAX_LENGTH,
        help_text="The name of the project. If absent, it is that of the API key, or the only one of the person.",
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Reject unknown fields."""
        without_unknown(self)
        return attrs

    def parameters(self) -> SessionParameters:
        """Return the parameters of the requested session."""
        defaults = default_parameters().as_dict()
        return SessionParameters(**{name: self.validated_data.get(name, value) for name, value in defaults.items()})

    def details(self) -> Details:
        """Return the details of the requested session."""
        given = {name: self.validated_data[name] for name in _DETAILS if name in self.validated_data}
        return Details(**given)

    def undecided(self) -> list[str]:
        """Return the names of the parameters that the media decide, because the request does not name them."""
        return undecided_among(self.validated_data)


class FailureSerializer(serializers.Serializer[Recording]):
    """Why the recording failed."""

    detail = serializers.CharField(source="error_detail", read_only=True)
    code = serializers.CharField(source="error_code", read_only=True)
    sequence = serializers.IntegerField(
        source="failed_sequence",
        read_only=True,
        allow_null=True,
        help_text="The chunk that caused the failure, if known.",
    )


class WarningSerializer(serializers.Serializer[Any]):
    """Audio that is not in the recording as it was sent."""

    code = serializers.CharField(read_only=True, help_text="A stable code for programs.")
    detail = serializers.CharField(read_only=True, help_text="A sentence for people. It may be reworded.")
    first_sequence = serializers.IntegerField(read_only=True, allow_null=True, help_text="The first affected chunk.")
    last_sequence = serializers.IntegerField(read_only=True, allow_null=True, help_text="The last affected chunk.")
    start_seconds = serializers.FloatField(
        read_only=True, allow_null=True, help_text="Where it is, or would be, in the recording."
    )
    end_seconds = serializers.FloatField(read_only=True, allow_null=True)


class RecordingSerializer(serializers.ModelSerializer[Recording]):
    """The recording of a session: its state and where to download it."""

    url = serializers.SerializerMethodField(help_text="Where to download it. Null while there is nothing to download.")
    format = serializers.SerializerMethodField()
    sha256 = serializers.CharField(
        read_only=True, help_text="The SHA-256 of the file, in hexadecimal. It is empty until shortly after `ready`."
    )
    sample_rate = serializers.SerializerMethodField(help_text="In Hz. Null while it is not known.")
    channels = serializers.SerializerMethodField(help_text="Null while they are not known.")
    warnings = WarningSerializer(
        many=True,
        read_only=True,
        help_text="Audio that is not in the recording as it was sent: at most the first hundred.",
    )
    progress = serializers.FloatField(read_only=True, help_text="From 0 to 1 while `state` is `building`.")
    error = serializers.SerializerMethodField(help_text="The reason if `state` is `failed`, otherwise null.")
    partial_url = serializers.SerializerMethodField(
        help_text="Where to download the part that could be made, if `state` is `failed`. Null if there is none."
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
        """Return where to download the recording; None while there is nothing to download."""
        if recording.state not in FETCHABLE_STATES:
            return None
        return reverse("session-audio", [recording.session_id], request=self.context.get("request"))

    @extend_schema_field({"type": "string", "format": "uri", "nullable": True})
    def get_partial_url(self, recording: Recording) -> str | None:
        """Return where to download the part of a failed recording that could be made; None if there is none."""
        if not downloads.has_part(recording):
            return None
        return f"{reverse('session-audio', [recording.session_id], request=self.context.get('request'))}?partial=true"

    @extend_schema_field(serializers.ChoiceField(FORMATS))
    def get_format(self, recording: Recording) -> str:
        """Return the format of the recording."""
        return recording.format or recording.session.format

    @extend_schema_field({"type": "integer", "nullable": True})
    def get_sample_rate(self, recording: Recording) -> int | None:
        """Return the sample rate; None while it is not known."""
        return recording.sample_rate or None

    @extend_schema_field({"type": "integer", "nullable": True})
    def get_channels(self, recording: Recording) -> int | None:
        """Return the number of channels; None while it is not known."""
        return recording.channels or None

    @extend_schema_field(FailureSerializer(allow_null=True))
    def get_error(self, recording: Recording) -> dict[str, Any] | None:
        """Return why the recording failed; None if it did not."""
        return FailureSerializer(recording).data if recording.state == RecordingState.FAILED else None


class SessionSerializer(serializers.ModelSerializer[AudioSession]):
    """A session and its recording."""

    session_id = serializers.UUIDField(source="id", read_only=True)
    file_path = serializers.SerializerMethodField(
        help_text="The file of the recording, relative to the storage root. Null until it is ready."
    )
    duration_seconds = serializers.SerializerMethodField(
        help_text="The length of the recording, or of what has been recorded so far. Null if it is not known exactly."
    )
    connections = serializers.IntegerField(
        source="connection_count",
        read_only=True,
        help_text="The number of connections that may write to the session now.",
    )
    recording = serializers.SerializerMethodField()
    recovered = serializers.SerializerMethodField(
        help_text="Null, unless the session was restored from the journals. `exact`: it is complete. `uncertain`: the"
        " order or the number of its last chunks may differ. `pending`: the restoration is not finished."
    )

    project = serializers.CharField(source="project.name", read_only=True, help_text="The name of its project.")
    metadata = MetadataField(read_only=True, help_text=_METADATA_HELP)

    class Meta:
        model = AudioSession
        described: ClassVar[list[str]] = [
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
        details: ClassVar[list[str]] = ["project", *_DETAILS]
        fields = [*described, *details]
        read_only_fields = fields
        extra_kwargs = {
            "name": {"help_text": _NAME_HELP},
            "retention_days": {"help_text": _RETENTION_HELP},
            "legal_hold": {"help_text": _HOLD_HELP},
        }

    @extend_schema_field({"type": "string", "nullable": True})
    def get_file_path(self, session: AudioSession) -> str | None:
        """Return the name of the recording's file; None until it is ready."""
        return recording_of(session).file_name or None

    @extend_schema_field({"type": "number", "format": "double", "nullable": True})
    def get_duration_seconds(self, session: AudioSession) -> float | None:
        """Return the length of the recording or of the audio so far; None if it is not known exactly."""
        return downloads.duration_seconds(session, recording_of(session))

    @extend_schema_field(serializers.ChoiceField([value for value in Recovery.values if value], allow_null=True))
    def get_recovered(self, session: AudioSession) -> str | None:
        """Return how the session was restored from the journals; None if it was not."""
        return session.recovered or None

    @extend_schema_field(RecordingSerializer)
    def get_recording(self, session: AudioSession) -> dict[str, Any]:
        """Return the recording of the session."""
        return RecordingSerializer(recording_of(session), context=self.context).data


class CreatedSessionSerializer(SessionSerializer):
    """A new session, and the URL to which a client sends its audio."""

    websocket_url = serializers.SerializerMethodField(
        help_text="Where to send the audio. The ticket in it is valid for one minute, one use and this session."
    )

    class Meta(SessionSerializer.Meta):
        fields = [*SessionSerializer.Meta.described, "websocket_url", *SessionSerializer.Meta.details]
        read_only_fields = fields

    @extend_schema_field(OpenApiTypes.URI)
    def get_websocket_url(self, session: AudioSession) -> str:
        """Return the URL to which a client sends the audio."""
        return str(self.context["websocket_url"])


class ClosedSessionSerializer(serializers.Serializer[AudioSession]):
    """The response to the close of a session."""

    success = serializers.BooleanField()
    session_id = serializers.UUIDField()
    final_info = SessionSerializer()


class ChunkSerializer(serializers.ModelSerializer[AudioChunk]):
    """One acknowledged chunk."""

    source = serializers.SerializerMethodField(  # type: ignore[assignment]
        help_text="The name of its source. Null if the source has no name."
    )
    is_released = serializers.SerializerMethodField(
        help_text="Whether its bytes were deleted after the recording was verified. The recording has them."
    )

    class Meta:
        model = AudioChunk
        fields = ["sequence", "size_bytes", "received_at", "source", "is_released"]
        read_only_fields = fields

    def get_is_released(self, chunk: AudioChunk) -> bool:
        """Return whether the chunk's bytes were deleted after the recording was verified."""
        return chunk.journal.removed_at is not None

    @extend_schema_field({"type": "string", "nullable": True})
    def get_source(self, chunk: AudioChunk) -> str | None:
        """Return the name of the chunk's source; None if the source has no name."""
        return chunk.source.name or None


class WaveformSerializer(serializers.Serializer[Waveform]):
    """The waveform of a span of a recording. Full scale is 1."""

    sample_rate = serializers.IntegerField(help_text="The sample rate of the recording, in Hz.")
    duration_seconds = serializers.FloatField(
        help_text="The length of the recording, or of what has been recorded so far."
    )
    start_seconds = serializers.FloatField()
    end_seconds = serializers.FloatField()
    minimum = serializers.SerializerMethodField(help_text="The lowest sample of each point.")
    maximum = serializers.SerializerMethodField(help_text="The highest sample of each point.")

    @extend_schema_field(serializers.ListField(child=serializers.FloatField()))
    def get_minimum(self, shown: Waveform) -> list[float]:
        """Return the lowest sample of each point."""
        return [round(value / FULL_SCALE, 4) for value in shown.pairs[:, 0].tolist()]

    @extend_schema_field(serializers.ListField(child=serializers.FloatField()))
    def get_maximum(self, shown: Waveform) -> list[float]:
        """Return the highest sample of each point."""
        return [round(value / FULL_SCALE, 4) for value in shown.pairs[:, 1].tolist()]


def recording_of(session: AudioSession) -> Recording:
    """Return the session's recording; a new one, not saved, if there is no row yet."""
    return session.recording if hasattr(session, "recording") else Recording(session=session)
