"""The REST API of background tasks: request, show, list and revoke them."""

from collections.abc import Sequence
from typing import Any
from urllib.parse import urlencode

from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import (
    OpenApiParameter,
    PolymorphicProxySerializer,
    extend_schema,
    extend_schema_field,
    extend_schema_view,
)
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from audio import access, ingest
from audio.api import described
from audio.api.access import READ, RECORD, scope_of
from audio.api.paging import TaskPages
from audio.api.queries import find_session
from audio.api.serializers import recording_of, without_unknown
from audio.api.views import CheckedView
from audio.errors import InvalidParameterError, TaskNotFoundError
from audio.jobs import rows
from audio.media.plan import TARGETS
from audio.models import AudioSession, BackgroundTask, RecordingState, TaskKind, TaskState

_RECEIVED_CHARACTERS = 64
# The tasks that a download or a page would start too.
_OF_READERS = (TaskKind.TRANSCODE, TaskKind.WAVEFORM)
RETRY_AFTER_SECONDS = 1


class OneOf(serializers.ChoiceField):
    """A choice. It raises InvalidParameterError, with the valid values, for any other value."""

    def to_internal_value(self, data: Any) -> str:
        """Return the choice."""
        if not isinstance(data, str) or data not in self.choices:
            valid = list(self.choices)
            raise InvalidParameterError(
                f"{self.field_name} must be one of {', '.join(valid)}.",
                parameter=self.field_name,
                received=str(data)[:_RECEIVED_CHARACTERS],
                valid_values=valid,
            )
        return data


@extend_schema_field(OpenApiTypes.UUID)
class SessionIdField(serializers.CharField):
    """A session id as text. The view checks it, so that an invalid id gets the same error as one in a path."""


class NewTaskSerializer(serializers.Serializer[BackgroundTask]):
    """A new task.

    `transcode` makes the recording in another format, and `waveform` computes its waveform. `concatenate` processes the
    pending chunks, which also happens by itself. `verify` compares the rows, the chunks and the recording of the
    session with each other.
    """

    task = OneOf([choice for choice in TaskKind.choices if choice[0] != TaskKind.CHAPTERS])
    session_id = SessionIdField(max_length=_RECEIVED_CHARACTERS)
    format = OneOf(
        [(name, name) for name in TARGETS], required=False, help_text="The target format. A transcode requires it."
    )

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        """Reject unknown fields, and a format for a task that needs none."""
        without_unknown(self)
        if (attrs["task"] == TaskKind.TRANSCODE) != ("format" in attrs):
            sentence = "A transcode requires a format. Other tasks have none."
            raise InvalidParameterError(sentence, parameter="format", valid_values=list(TARGETS))
        return attrs


class TaskErrorSerializer(serializers.Serializer[BackgroundTask]):
    """Why the task failed."""

    detail = serializers.CharField(source="error_detail")
    code = serializers.CharField(source="error_code")


class TaskResultSerializer(serializers.Serializer[Any]):
    """Where to download the result."""

    url = serializers.URLField()
    size_bytes = serializers.IntegerField(allow_null=True)


class ProblemSerializer(serializers.Serializer[Any]):
    """A problem, and its place."""

    code = serializers.CharField()
    detail = serializers.CharField()
    session_id = serializers.UUIDField()
    sequence = serializers.IntegerField(required=False, help_text="The sequence of the chunk.")
    file_name = serializers.CharField(required=False, help_text="The file, relative to the storage root.")
    offset = serializers.IntegerField(required=False, help_text="The offset of the record in that journal.")


class VerificationSerializer(serializers.Serializer[Any]):
    """The result of a verification. There is no problem if `problem_count` is 0."""

    session_id = serializers.UUIDField()
    chunks = serializers.IntegerField()
    bytes = serializers.IntegerField()
    recording = serializers.CharField(help_text="`compared` if it was compared with the chunks, otherwise its state.")
    problem_count = serializers.IntegerField()
    problems = ProblemSerializer(many=True, help_text="The first hundred.")


_TASK_RESULT = PolymorphicProxySerializer(
    "TaskResultOrVerification", [TaskResultSerializer, VerificationSerializer], None, allow_null=True
)


class TaskSerializer(serializers.ModelSerializer[BackgroundTask]):
    """A background task."""

    task_id = serializers.UUIDField(source="id", read_only=True)
    task = serializers.ChoiceField(TaskKind.choices, source="kind", read_only=True)
    session_id = serializers.UUIDField(read_only=True)
    format = serializers.SerializerMethodField(
        help_text="The format of a transcode or of a file with chapters, otherwise null."
    )
    status = serializers.ChoiceField(TaskState.choices, source="state", read_only=True)
    progress = serializers.SerializerMethodField(help_text="From 0 to 1.")
    percent = serializers.SerializerMethodField(help_text="The progress from 0 to 100.")
    seconds_done = serializers.FloatField(read_only=True, help_text="The seconds of audio that have been processed.")
    result = serializers.SerializerMethodField(help_text="The result, if it exists, otherwise null.")
    error = serializers.SerializerMethodField(help_text="The reason if `status` is `failed`, otherwise null.")

    class Meta:
        model = BackgroundTask
        fields = [
            *("task_id", "task", "session_id", "format", "status", "progress", "percent", "seconds_done"),
            *("result", "error", "created_at", "ended_at"),
        ]
        read_only_fields = fields

    @extend_schema_field({"type": "string", "nullable": True})
    def get_format(self, task: BackgroundTask) -> str | None:
        """Return the format of a transcode or of a file with chapters; None for other tasks."""
        return task.format or None

    def get_progress(self, task: BackgroundTask) -> float:
        """Return the progress from 0 to 1."""
        if task.kind == TaskKind.CONCATENATE and task.state == TaskState.RUNNING:
            return round(recording_of(task.session).progress, 3)
        return round(task.progress, 3)

    def get_percent(self, task: BackgroundTask) -> float:
        """Return the progress from 0 to 100."""
        return round(100 * self.get_progress(task), 1)

    @extend_schema_field(_TASK_RESULT)
    def get_result(self, task: BackgroundTask) -> dict[str, Any] | None:
        """Return the result; None if there is none yet."""
        if task.state != TaskState.COMPLETED:
            return None
        if task.kind == TaskKind.VERIFY:
            report: dict[str, Any] | None = task.report
            return report
        return self._fetchable_result(task)

    def _fetchable_result(self, task: BackgroundTask) -> dict[str, Any] | None:
        request = self.context.get("request")
        if task.kind == TaskKind.CONCATENATE:
            url = reverse("session-audio", [task.session_id], request=request)
            recording = recording_of(task.session)
            return {"url": url, "size_bytes": recording.size_bytes} if _is_fetchable(recording.state) else None
        if not task.is_current:
            return None
        if task.kind == TaskKind.WAVEFORM:
            return {"url": reverse("session-waveform", [task.session_id], request=request), "size_bytes": None}
        url = reverse("session-audio", [task.session_id], request=request)
        query = {"format": task.format} | ({"markers": "true"} if task.kind == TaskKind.CHAPTERS else {})
        return {"url": f"{url}?{urlencode(query)}", "size_bytes": task.size_bytes}

    @extend_schema_field(TaskErrorSerializer(allow_null=True))
    def get_error(self, task: BackgroundTask) -> dict[str, Any] | None:
        """Return why the task failed; None if it did not."""
        return TaskErrorSerializer(task).data if task.state == TaskState.FAILED else None


def _is_fetchable(state: str) -> bool:
    return state in (RecordingState.LIVE, RecordingState.READY)


def _shown(request: Request, task_id: str) -> dict[str, Any]:
    shown: dict[str, Any] = TaskSerializer(rows.find(task_id), context={"request": request}).data
    return shown


@extend_schema_view(
    get=extend_schema(
        summary="List background tasks, newest first",
        tags=["tasks"],
        parameters=[
            OpenApiParameter("session_id", OpenApiTypes.UUID, description="List only the tasks of this session.")
        ],
        responses={200: TaskSerializer(many=True), **described.answers(400, 503)},
    ),
    post=extend_schema(
        summary="Start a background task",
        tags=["tasks"],
        request=NewTaskSerializer,
        responses={202: TaskSerializer, **described.answers(400, 404, 409, 413, 415, 503)},
    ),
)
class TaskList(CheckedView, generics.ListAPIView[BackgroundTask]):
    """The requested background tasks. A request for a result that exists, or is being made, gets the existing task."""

    scopes = {"GET": READ, "POST": READ}
    # Without a join, the index gives a session's tasks in their order.
    queryset = BackgroundTask.objects.prefetch_related("session__recording")
    pagination_class = TaskPages
    filter_backends = []
    query_parameters = ("cursor", "page_size", "session_id")

    def get_serializer_class(self) -> type[Any]:
        """Return the serializer of the request or of the response."""
        return NewTaskSerializer if self.request.method == "POST" else TaskSerializer

    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return a page of the tasks that exist for the identity, or of those of one session."""
        pages = TaskPages()
        page = pages.paginate_parts(self._parts(), self.get_queryset(), request)
        return pages.get_paginated_response(TaskSerializer(page, many=True, context={"request": request}).data)

    def _parts(self) -> Sequence[QuerySet[BackgroundTask]]:
        """Return the tasks in parts, each of which an index finds in the order of the list."""
        found, identity = self.get_queryset(), self.identity
        session_id = identity.session_id
        if "session_id" in self.request.query_params:
            session_id = ingest.parse_session_id(self.request.query_params["session_id"])
        if session_id is not None:
            sessions = access.visible(identity, AudioSession.objects.filter(pk=session_id))
            return [found.filter(session=key) for key in sessions.values_list("pk", flat=True)]
        if identity.everywhere:
            return [found]
        return [found.filter(project=project_id) for project_id in sorted(identity.scopes)]

    def post(self, request: Request) -> Response:
        """Request a background task. If its result exists, or is being made, the response is the existing task."""
        requested = NewTaskSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        wanted = requested.validated_data
        scope = READ if wanted["task"] in _OF_READERS else RECORD
        session = find_session(ingest.parse_session_id(wanted["session_id"]), self.identity, scope)
        task = rows.enqueue(session, TaskKind(wanted["task"]), wanted.get("format", ""), again=True)
        location = reverse("task-detail", [task.pk], request=request)
        headers = {"Location": location, "Retry-After": str(RETRY_AFTER_SECONDS)}
        return Response(_shown(request, str(task.pk)), status=status.HTTP_202_ACCEPTED, headers=headers)


_TASK_ID = [OpenApiParameter("task_id", OpenApiTypes.UUID, OpenApiParameter.PATH)]


@extend_schema_view(
    get=extend_schema(
        summary="Show a background task",
        tags=["tasks"],
        parameters=_TASK_ID,
        responses={200: TaskSerializer, **described.answers(400, 404, 503)},
    ),
    delete=extend_schema(
        summary="Revoke a background task that waits or runs",
        tags=["tasks"],
        parameters=_TASK_ID,
        responses={200: TaskSerializer, **described.answers(400, 404, 409, 503)},
    ),
)
class TaskDetail(CheckedView):
    """A background task and its progress."""

    scopes = {"GET": READ, "DELETE": RECORD}
    serializer_class = TaskSerializer

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        """Check that the task exists for the identity, and that it may use the method."""
        super().initial(request, *args, **kwargs)
        session = rows.find(kwargs["task_id"]).session
        if not self.identity.sees(session.project_id, session.pk):
            raise TaskNotFoundError(received=kwargs["task_id"][:_RECEIVED_CHARACTERS])
        self.identity.require(scope_of(request, self) or "", session.project_id, session.pk)

    def get(self, request: Request, task_id: str) -> Response:
        """Return a background task and its progress."""
        return Response(_shown(request, task_id))

    def delete(self, request: Request, task_id: str) -> Response:
        """Revoke a background task that is pending or running."""
        rows.revoke(task_id)
        return Response(_shown(request, task_id))
