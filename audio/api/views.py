"""The REST API of sessions: list, create, show, close and delete them; list their chunks; download their recordings.

The views call the product (`audio.ingest`, `audio.jobs`, `audio.upkeep`) and serialize the results. Errors go through
`errors.handle_exception`.
"""

import json
from contextlib import suppress
from io import BytesIO
from typing import Any, ClassVar, TypeVar
from urllib.parse import urlencode
from uuid import UUID

from django.db import connection
from django.db.models import Model, QuerySet
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.urls import get_script_prefix
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, OpenApiResponse, extend_schema, extend_schema_view
from rest_framework import generics, status
from rest_framework.exceptions import NotAcceptable, ParseError
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.parsers import FormParser, JSONParser, MultiPartParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse
from rest_framework.views import APIView

from audio import access, ingest, upkeep
from audio.api import described
from audio.api.access import ANY, MANAGE, READ, RECORD, address_of, identity_of, scope_of
from audio.api.filters import SessionFilter, is_metadata
from audio.api.paging import ChunkPages, SessionPages
from audio.api.queries import find_session, require_open_for_token, sessions, visibility
from audio.api.ranged import ranged_response
from audio.api.serializers import (
    ChunkSerializer,
    ClosedSessionSerializer,
    CreatedSessionSerializer,
    DetailsSerializer,
    NewSessionSerializer,
    SessionSerializer,
    WaveformSerializer,
    recording_of,
)
from audio.api.spans import MAX_POINTS, POINTS, WAVEFORM_FORMATS, WaveformSpan
from audio.assembly import chunks, wanted
from audio.errors import InvalidParameterError, MasterDamagedError, MessageTooLargeError, RecordingNotReadyError
from audio.jobs import chapters, peaks, transcode
from audio.media import waveform
from audio.media.chapters import FORMATS as WITH_CHAPTERS
from audio.media.plan import TARGETS
from audio.models import AudioChunk, AudioSession, Recording, RecordingState
from audio.storage import cued, downloads

ManagedT = TypeVar("ManagedT", bound=Model)
BODY_LIMIT_BYTES = 64 * 1024
CHUNK_CONTENT_TYPE = "application/octet-stream"
_SEQUENCE_DIGITS = 18
_SCOPES_OF_DETAILS = {"name": RECORD, "metadata": RECORD, "retention_days": MANAGE, "legal_hold": MANAGE}
_MARKABLE = ("wav", *WITH_CHAPTERS)
_TRUE, _FALSE = ("true", "1"), ("false", "0")


class BoundedJSONParser(JSONParser):
    """A parser of JSON of at most BODY_LIMIT_BYTES. It rejects a larger body before the whole body is in memory."""

    def parse(self, stream: Any, media_type: Any = None, parser_context: Any = None) -> Any:
        """Parse a body.

        Raises:
            MessageTooLargeError: The body is too large.
            ParseError: The body is not JSON, or contains a text that can't be stored.
        """
        text = stream.read(BODY_LIMIT_BYTES + 1)
        if len(text) > BODY_LIMIT_BYTES:
            raise MessageTooLargeError("The request body is too large.", limit=BODY_LIMIT_BYTES)
        try:
            parsed = super().parse(BytesIO(text), media_type, parser_context)
            json.dumps(parsed, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            # A lone surrogate is valid JSON (RFC 8259 section 8.2), but can't be encoded as UTF-8.
            raise ParseError("JSON parse error - a lone surrogate is not a character.") from error
        except RecursionError as error:
            raise ParseError("JSON parse error - the values are nested too deeply.") from error
        return parsed


class CheckedView(APIView):
    """A view that rejects unknown query parameters. A list would ignore a misspelled filter and show all rows."""

    query_parameters: ClassVar[tuple[str, ...]] = ()
    # The scope that each method needs (`audio.api.access`).
    scopes: ClassVar[dict[str, str]] = {}
    # Whether a token may be in the query, for players, which can set no header.
    takes_token: ClassVar[bool] = False
    parser_classes = [BoundedJSONParser, FormParser, MultiPartParser]

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Reject unknown query parameters."""
        super().initial(request, *args, **kwargs)
        unknown = {name for name in request.query_params if not self.is_known(name)}
        if unknown:
            name = min(unknown)[:64]
            raise InvalidParameterError(
                f"There is no parameter {name!r}.", parameter=name, valid_values=list(self.query_parameters)
            )

    def is_known(self, parameter: str) -> bool:
        """Return whether the view has a query parameter of this name."""
        return parameter in self.query_parameters or (self.takes_token and parameter == "token")

    @property
    def identity(self) -> access.Identity:
        """The identity of the caller."""
        return identity_of(self.request)

    def managed(self, rows: QuerySet[ManagedT]) -> QuerySet[ManagedT]:
        """Return the rows of the projects that the caller manages, or of the one that the request names."""
        if "project" in self.request.query_params:
            project_id = access.project_for(self.identity, self.request.query_params["project"])
            self.identity.require(MANAGE, project_id)
            return rows.filter(project_id=project_id)
        if MANAGE in self.identity.everywhere:
            return rows
        mine = [project_id for project_id, scopes in self.identity.scopes.items() if MANAGE in scopes]
        return rows.filter(project_id__in=mine)

    def note(self, action: str, session: AudioSession, **details: Any) -> None:
        """Store an action on a session in the audit."""
        access.audit.note(action, self.identity, session, address_of(self.request), **details)


class SessionView(CheckedView):
    """A view of the session whose id is in the path."""

    @property
    def session_id(self) -> UUID:
        """The id in the path."""
        return ingest.parse_session_id(self.kwargs["session_id"])

    def session(self) -> AudioSession:
        """Return the session as it is now.

        Raises:
            InvalidSessionIdError: The id is not a UUID.
            NotAllowedError: The request needs a scope that the identity does not have.
            SessionNotFoundError: There is no such session, or not for this identity.
        """
        return find_session(self.session_id, self.identity, scope_of(self.request, self) or "")

    def session_so_far(self) -> AudioSession:
        """Return the session with a recording that is at most two seconds behind, if workers are there.

        A request for a certain version of the recording, which continues a download, does not wait for another one.
        """
        session = self.session()
        is_of_version = "If-Range" in self.request.headers or "If-Match" in self.request.headers
        return self.session() if not is_of_version and wanted.wait_for_window(session) else session

    def shown(self) -> dict[str, Any]:
        """Return the JSON of the session."""
        shown: dict[str, Any] = SessionSerializer(self.session(), context={"request": self.request}).data
        return shown


@extend_schema_view(
    get=extend_schema(
        summary="List sessions, newest first",
        tags=["sessions"],
        parameters=[
            OpenApiParameter(
                "metadata.KEY",
                OpenApiTypes.STR,
                description="The value of this key of the metadata. There may be several, with different keys.",
            )
        ],
        responses={200: SessionSerializer(many=True), **described.answers(400, 503)},
    ),
    post=extend_schema(
        summary="Create a session",
        tags=["sessions"],
        request=NewSessionSerializer,
        responses={201: CreatedSessionSerializer, **described.answers(400, 404, 413, 415, 503)},
    ),
)
class SessionList(CheckedView, generics.ListAPIView[AudioSession]):
    """List sessions, newest first, or create one. The response to a creation says where to send the audio."""

    scopes = {"GET": READ, "POST": RECORD}
    queryset = sessions()
    pagination_class = SessionPages
    filterset_class = SessionFilter
    query_parameters = ("cursor", "page_size", *SessionFilter.base_filters, "metadata.KEY")

    def is_known(self, parameter: str) -> bool:
        """Return whether a parameter is known. Those of metadata have the keys in their names."""
        return super().is_known(parameter) or is_metadata(parameter)

    def get_serializer_class(self) -> type[Any]:
        """Return the serializer of the request or of the response."""
        return NewSessionSerializer if self.request.method == "POST" else SessionSerializer

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return a page of the sessions that exist for the identity and pass the filters.

        Raises:
            InvalidParameterError: A filter has an invalid value.
        """
        filtered = SessionFilter(request.query_params, sessions(), request=request)
        if not filtered.is_valid():
            raise self._filter_error(filtered.errors)
        found = filtered.narrow(sessions(), visibility(self.identity))
        pages = SessionPages()
        page = pages.paginate_parts(found.parts, sessions(), request, are_few=found.are_few)
        return pages.get_paginated_response(SessionSerializer(page, many=True, context={"request": request}).data)

    def _filter_error(self, errors: Any) -> InvalidParameterError:
        name, sentences = next(iter(errors.items()))
        choices = SessionFilter.base_filters[name].extra.get("choices")
        details = {"valid_values": [value for value, _ in choices]} if choices else {}
        received = self.request.query_params.get(name, "")[:64]
        return InvalidParameterError(f"{name}: {sentences[0]}", parameter=name, received=received, **details)

    def post(self, request: Request) -> Response:
        """Create a session. The response says where to send the audio."""
        requested = NewSessionSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        user_id = requested.validated_data.get("user_id")
        project_id = access.project_for(self.identity, requested.validated_data.get("project"))
        self.identity.require(RECORD, project_id)
        details = requested.details()
        if details.legal_hold or details.retention_days is not None:
            self.identity.require(MANAGE, project_id)
        created = ingest.create_session(
            requested.parameters(), user_id, requested.undecided(), project_id, details=details
        )
        self.note("session.created", created, **({"legal_hold": True} if details.legal_hold else {}))
        context = {"request": request, "websocket_url": websocket_url(request, created.pk, self.identity)}
        shown = CreatedSessionSerializer(find_session(created.pk, self.identity, RECORD), context=context).data
        location = reverse("session-detail", [created.pk], request=request)
        return Response(shown, status=status.HTTP_201_CREATED, headers={"Location": location})


def websocket_url(request: Request, session_id: UUID, maker: access.Identity | None = None) -> str:
    """Return the URL to which a client sends a session's audio, with a ticket if somebody makes one."""
    query = f"?{urlencode({'ticket': access.make_ticket(session_id, maker)})}" if maker else ""
    url = request.build_absolute_uri(f"{get_script_prefix()}api/ws/audio/{session_id}{query}")
    return f"ws{url.removeprefix('http')}"


@extend_schema_view(
    get=described.session_operation("Show a session", {200: SessionSerializer}, 400, 404, 503),
    patch=described.session_operation(
        "Change the details of a session",
        {200: SessionSerializer},
        *(400, 404, 409, 413, 415, 503),
        request=DetailsSerializer,
    ),
    delete=described.session_operation("Delete a session with all its data", {204: None}, 400, 404, 409, 503),
)
class SessionDetail(SessionView):
    """One session and its recording."""

    # The scopes of PATCH depend on the fields that it changes.
    scopes = {"GET": ANY, "PATCH": ANY, "DELETE": MANAGE}
    serializer_class = SessionSerializer

    def get(self, request: Request, session_id: str) -> Response:
        """Return a session and its recording."""
        return Response(self.shown())

    def patch(self, request: Request, session_id: str) -> Response:
        """Change the name, the metadata, the retention or the legal hold of a session. Absent fields do not change."""
        session = self.session()
        requested = DetailsSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        for name in requested.validated_data:
            self.identity.require(_SCOPES_OF_DETAILS[name], session.project_id, session.pk)
        require_open_for_token(session, self.identity)
        ingest.change_details(session.pk, requested.validated_data, self.identity, address_of(request))
        return Response(self.shown())

    def delete(self, request: Request, session_id: str) -> Response:
        """Delete a session with all its data."""
        session = self.session()
        upkeep.delete_session(session.pk)
        self.note("session.deleted", session)
        return Response(status=status.HTTP_204_NO_CONTENT)


class SessionClose(SessionView):
    """Close a session, so that its recording is finished. Closing a closed session succeeds too."""

    scopes = {"POST": RECORD}

    @described.session_operation("Close a session", {200: ClosedSessionSerializer}, 400, 404, 503, request=None)
    def post(self, request: Request, session_id: str) -> Response:
        """Close a session, so that its recording is finished. Closing a closed session succeeds too."""
        session = self.session()
        ingest.close_session(session.pk)
        self.note("session.closed", session)
        return Response({"success": True, "session_id": str(self.session_id), "final_info": self.shown()})


@extend_schema_view(
    get=described.session_operation("List a session's chunks", {200: ChunkSerializer(many=True)}, 400, 404, 503)
)
class ChunkList(SessionView, generics.ListAPIView[AudioChunk]):
    """The acknowledged chunks of a session, in order."""

    scopes = {"GET": READ}
    queryset = AudioChunk.objects.none()
    serializer_class = ChunkSerializer
    pagination_class = ChunkPages
    filter_backends = []
    query_parameters = ("cursor", "page_size")

    def get_queryset(self) -> QuerySet[AudioChunk]:
        """Return the chunks of the session."""
        return AudioChunk.objects.filter(session=self.session()).select_related("source", "journal")


class AnythingAccepted(DefaultContentNegotiation):
    """A content negotiation for responses that are neither JSON nor HTML.

    It also serves players that accept only `audio/*`.
    """

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """Return the renderer and its media type; the first renderer if none is acceptable."""
        try:
            chosen: tuple[BaseRenderer, str] = super().select_renderer(request, renderers, format_suffix)
        except NotAcceptable:
            return renderers[0], renderers[0].media_type
        return chosen


class ChunkPayload(SessionView):
    """One chunk, byte for byte as it was sent. It is available even if the recording failed."""

    scopes = {"GET": READ}
    content_negotiation_class = AnythingAccepted

    @described.session_operation(
        "Download a chunk",
        {(200, CHUNK_CONTENT_TYPE): OpenApiResponse(OpenApiTypes.BINARY, description="The chunk's bytes.")},
        *(400, 404, 409, 500, 503),
        parameters=[
            OpenApiParameter("sequence", OpenApiTypes.INT, OpenApiParameter.PATH, description="Counted from one.")
        ],
    )
    def get(self, request: Request, session_id: str, sequence: str) -> HttpResponse:
        """Return a chunk, byte for byte as it was sent. It is available even if the recording failed."""
        number = self._sequence(sequence)
        session = self.session()
        payload = chunks.payload(session.pk, number)
        self.note("chunk.downloaded", session, sequence=number)
        name = f"{self.session_id}-{number}.bin"
        headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "private, no-cache"}
        return HttpResponse(payload, content_type=CHUNK_CONTENT_TYPE, headers=headers)

    @staticmethod
    def _sequence(text: str) -> int:
        if not (text.isascii() and text.isdigit() and len(text) <= _SEQUENCE_DIGITS):
            raise InvalidParameterError(
                "The sequence of a chunk is a whole number, counted from one.", parameter="sequence", received=text[:64]
            )
        return int(text)


class SessionAudio(SessionView):
    """The recording of a session, or the recording so far of an open session.

    The first request for another format starts a transcode.
    """

    scopes = {"GET": READ}
    takes_token = True
    content_negotiation_class = AnythingAccepted
    query_parameters = ("format", "partial", "markers")

    @described.session_operation(
        "Download the recording",
        described.download(),
        *(202, 400, 404, 409, 412, 416, 503),
        parameters=[
            OpenApiParameter(
                "format",
                OpenApiTypes.STR,
                description=f"The format of the recording, which is the default, or {', '.join(TARGETS)}. The first "
                "request for another format starts a transcode: 202 `task_running` until it is done.",
            ),
            OpenApiParameter(
                "partial",
                OpenApiTypes.BOOL,
                description="`true`: the part of a failed recording that could be made, in its own format. The "
                "name in `Content-Disposition` then ends with `-incomplete`.",
            ),
            OpenApiParameter(
                "markers",
                OpenApiTypes.BOOL,
                description="`true`: the file has the markers of the session, as cue points of WAV or as chapters of "
                f"{', '.join(WITH_CHAPTERS)}. For chapters: 202 `task_running` until the file is made. The recording "
                "must be ready.",
            ),
            OpenApiParameter("Range", OpenApiTypes.STR, OpenApiParameter.HEADER, description="`bytes=0-1023`"),
        ],
    )
    def get(self, request: Request, session_id: str) -> HttpResponseBase:
        """Return the recording of a session. While the session is open, it is what has been recorded so far.

        The first request for another format starts a transcode.
        """
        # A recording may be finished, and its file renamed, after its row is read and before its file is opened.
        for _ in range(2):
            with suppress(FileNotFoundError):
                return self._answer()
        raise MasterDamagedError("The file of the recording is missing. Rebuild the recording from its chunks.")

    def _answer(self) -> HttpResponseBase:
        session = self.session_so_far()
        recording = recording_of(session)
        own = recording.format or session.format
        requested = self._requested_format(own)
        has_markers = self._has_markers(requested, recording)
        if has_markers and requested != "wav":
            found = chapters.servable(session, recording, requested)
        elif requested == own:
            found = downloads.servable(session, recording, is_partial=self._flag("partial"))
        else:
            found = transcode.servable(session, requested)
        if has_markers and requested == "wav":
            found = cued.with_cues(found, session.pk)
        if _is_from_start(self.request):
            self._note_download(session, requested)
        _release_database()
        return ranged_response(self.request._request, found)

    def _note_download(self, session: AudioSession, audio_format: str) -> None:
        action = "recording.downloaded"
        if not access.audit.is_repeated(action, self.identity, session, address_of(self.request)):
            self.note(action, session, format=audio_format)

    def _flag(self, name: str) -> bool:
        requested = self.request.query_params.get(name, "false").lower()
        if requested not in _TRUE + _FALSE:
            raise InvalidParameterError(
                f"{name} must be true or false, not {requested[:64]!r}.",
                parameter=name,
                received=requested[:64],
                valid_values=["true", "false"],
            )
        return requested in _TRUE

    def _has_markers(self, requested: str, recording: Recording) -> bool:
        """Return whether the download is to have the markers as cue points or chapters.

        Raises:
            InvalidParameterError: The format has neither.
            RecordingNotReadyError: The recording still grows.
        """
        if not self._flag("markers"):
            return False
        if requested not in _MARKABLE:
            sentence = f"A file in the format {requested} has no place for markers. Choose another format."
            raise InvalidParameterError(sentence, parameter="format", received=requested, valid_values=list(_MARKABLE))
        if recording.state == RecordingState.LIVE:
            raise RecordingNotReadyError
        return True

    def _requested_format(self, own: str) -> str:
        requested = self.request.query_params.get("format", own)
        valid = list(dict.fromkeys([own, *TARGETS]))
        if requested not in valid:
            raise InvalidParameterError(
                f"The recording is available as {', '.join(valid)}, not as {requested[:64]!r}.",
                parameter="format",
                received=requested[:64],
                valid_values=valid,
            )
        return requested


class SessionWaveform(SessionView):
    """The waveform of a recording: the lowest and the highest sample for each of a number of points.

    For PCM it is available while the session is open. For compressed streams it is computed once the recording is
    ready.
    """

    scopes = {"GET": READ}
    takes_token = True
    content_negotiation_class = AnythingAccepted
    query_parameters = ("points", "start", "end", "format")

    @described.session_operation(
        "Get the waveform",
        {
            (200, "application/json"): WaveformSerializer,
            (200, "image/svg+xml"): OpenApiResponse(OpenApiTypes.STR, description="The picture."),
        },
        *(202, 400, 404, 409, 503),
        parameters=[
            OpenApiParameter(
                "points",
                OpenApiTypes.INT,
                description=f"The maximum number of points, from 1 to {MAX_POINTS}. The default is {POINTS}.",
            ),
            OpenApiParameter("start", OpenApiTypes.DOUBLE, description="Start in seconds. The default is 0."),
            OpenApiParameter(
                "end", OpenApiTypes.DOUBLE, description="End in seconds. The default is the end of the recording."
            ),
            OpenApiParameter(
                "format",
                OpenApiTypes.STR,
                enum=WAVEFORM_FORMATS,
                description="`json`, the default, or `svg` for a picture.",
            ),
        ],
    )
    def get(self, request: Request, session_id: str) -> HttpResponseBase:
        """Return the waveform of a recording: the lowest and the highest sample for each of a number of points.

        For PCM it is available while the session is open. For compressed streams it is computed once the recording is
        ready.
        """
        span = WaveformSpan.parse(request.query_params)
        session = self.session_so_far()
        shown = peaks.shown(session, recording_of(session), span.points, span.start_seconds, span.end_seconds)
        headers = {"Cache-Control": "private, no-cache"}
        if span.format == "svg":
            return HttpResponse(waveform.svg(shown), content_type="image/svg+xml", headers=headers)
        return Response(WaveformSerializer(shown).data, headers=headers)


def _is_from_start(request: Request) -> bool:
    """Whether a request is the first of a download. A player that seeks sends many more."""
    return request.method == "GET" and request.headers.get("Range", "bytes=0-").startswith("bytes=0-")


def _release_database() -> None:
    """Close the database connection, which a download does not need and may otherwise hold for an hour."""
    if not connection.in_atomic_block:
        connection.close()
