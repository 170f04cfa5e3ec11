"""The parts of the HTTP API, as groups of methods: `client.sessions`, `client.markers` and so on."""

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any, TypedDict, Unpack, cast

from sercuescribe_client.downloads import (
    BytesProgress,
    Download,
    FileReader,
    LiveWav,
    Position,
    download,
    follow,
)
from sercuescribe_client.errors import ConflictError, NotFoundError, error_of
from sercuescribe_client.models import (
    AnyFormat,
    ChunkMode,
    Delivery,
    Encoding,
    Format,
    Key,
    Marker,
    Page,
    Project,
    Scope,
    Session,
    Status,
    Target,
    Task,
    Token,
    Waveform,
    Webhook,
)
from sercuescribe_client.transport import Deadline, Progress, Transport, segment

_POLL_SECONDS = (0.05, 1.0)
_SHA256_SECONDS = 15.0
_SHA256_POLL_SECONDS = 0.2
_KEEP: Any = object()


class SessionFilters(TypedDict, total=False):
    """Filters of the list of sessions. Times are in ISO 8601. `name` is the beginning of the name."""

    status: Status | None
    user_id: str | None
    format: Format | None
    started_after: str | None
    started_before: str | None
    project: str | None
    name: str | None
    metadata: Mapping[str, str] | None


class NewSession(TypedDict, total=False):
    """A new session. The audio, the project or the server decides about absent values."""

    sample_rate: int
    channels: int
    format: Format
    encoding: Encoding
    chunks: ChunkMode
    user_id: str
    name: str
    metadata: Mapping[str, str]
    retention_days: int | None
    legal_hold: bool
    project: str


class SessionDetails(TypedDict, total=False):
    """Changes of a session. Null in `metadata` removes the key."""

    name: str | None
    metadata: Mapping[str, str | None] | None
    retention_days: int | None
    legal_hold: bool


class Resource:
    """A part of the HTTP API."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport


class AsyncSessions(Resource):
    """Sessions and their recordings."""

    async def list(
        self, *, cursor: str | None = None, page_size: int | None = None, **filters: Unpack[SessionFilters]
    ) -> Page[Session]:
        """Return one page of sessions, newest first."""
        parameters = {**_filters(filters), "cursor": cursor, "page_size": page_size}
        return await self._transport.page(_SESSIONS, parameters)

    async def iterate(self, **filters: Unpack[SessionFilters]) -> AsyncGenerator[Session, None]:
        """Yield all sessions, newest first."""
        async for session in self._transport.items(_SESSIONS, _filters(filters)):
            yield session

    async def get(self, session_id: str) -> Session:
        """Return a session."""
        return cast(Session, await self._transport.json("GET", _path(session_id)))

    async def create(self, **fields: Unpack[NewSession]) -> Session:
        """Create a session. Its `websocket_url` has a ticket that is valid for one minute and one use."""
        return cast(Session, await self._transport.json("POST", _SESSIONS, body=fields))

    async def update(self, session_id: str, **details: Unpack[SessionDetails]) -> Session:
        """Change the details of a session. Absent fields do not change."""
        return cast(Session, await self._transport.json("PATCH", _path(session_id), body=details))

    async def close(self, session_id: str) -> Session:
        """Close a session. Closing a closed session succeeds too."""
        answer = await self._transport.json("POST", f"{_path(session_id)}/close")
        return cast(Session, answer["final_info"])

    async def delete(self, session_id: str) -> None:
        """Delete a session, its chunks and its recording."""
        await self._transport.json("DELETE", _path(session_id))

    async def wait_until_ready(
        self, session_id: str, *, timeout_seconds: float | None = None, on_progress: Progress | None = None
    ) -> Session:
        """Wait until the recording is ready, and return the session.

        Args:
            session_id: The session.
            timeout_seconds: How long to wait; None: for as long as it takes.
            on_progress: Called with the progress of the recording, from 0 to 1.

        Raises:
            ConflictError: The recording has failed.
            NotFoundError: The session was closed without a chunk.
            TimeoutError: It takes longer.
        """
        deadline, delay_seconds = Deadline(timeout_seconds), _POLL_SECONDS[0]
        while True:
            session = await self.get(session_id)
            recording = session["recording"]
            if recording["state"] == "ready":
                return session
            if recording["error"]:
                raise ConflictError(recording["error"]["detail"], recording["error"]["code"])
            if session["status"] == "completed" and not session["total_chunks"]:
                raise NotFoundError(
                    "The session was closed without a chunk, so it has no recording.", "recording_empty"
                )
            if on_progress is not None:
                on_progress(recording["progress"])
            deadline.check(f"The recording of session {session_id} is not ready after {timeout_seconds} s.")
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 1.5, _POLL_SECONDS[1])

    async def download(
        self,
        session_id: str,
        destination: str | Path,
        *,
        format: AnyFormat | None = None,  # the name of the parameter in the HTTP API
        markers: bool = False,
        partial: bool = False,
        on_progress: BytesProgress | None = None,
        on_making: Progress | None = None,
    ) -> Download:
        """Download the recording to a file. An interrupted download continues where it stopped.

        Args:
            session_id: The session.
            destination: The file.
            format: Another format than that of the recording. It is made at the first request.
            markers: Whether a WAV file has the markers as cue points.
            partial: Whether to download what there is of a failed recording.
            on_progress: Called with the bytes that are there, and those of the whole.
            on_making: Called with the progress of the recording or of the transcode, from 0 to 1.

        Returns:
            The file. It is verified if it is the recording itself.

        Raises:
            DownloadDamagedError: The file is not the one that the server has.
        """
        session = await self.get(session_id)
        is_recording = format in (None, session["recording"]["format"]) and not markers and not partial
        expected = await self._sha256(session) if is_recording else None
        parameters = {"format": format, "markers": markers or None, "partial": partial or None}
        reader = FileReader(self._transport, f"{_path(session_id)}/audio", parameters, on_making)
        return await download(reader, Path(destination), expected, on_progress)

    async def _sha256(self, session: Session) -> str | None:
        """Return the SHA-256 of a recording; None if it is not known. The server knows it shortly after `ready`."""
        if session["status"] == "completed" and session["total_chunks"]:
            session = await self.wait_until_ready(session["session_id"])
        until = time.monotonic() + _SHA256_SECONDS
        while session["recording"]["state"] == "ready" and not session["recording"]["sha256"]:
            if time.monotonic() > until:
                break
            await asyncio.sleep(_SHA256_POLL_SECONDS)
            session = await self.get(session["session_id"])
        return session["recording"]["sha256"] or None

    async def read(
        self,
        session_id: str,
        *,
        format: AnyFormat | None = None,
        on_making: Progress | None = None,
    ) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of the recording. After a broken connection they continue where they were."""
        reader = FileReader(self._transport, f"{_path(session_id)}/audio", {"format": format}, on_making)
        async with aclosing(reader.read(Position())) as blocks:
            async for block in blocks:
                yield block

    async def follow(self, session_id: str) -> AsyncGenerator[bytes, None]:
        """Yield the bytes of a recording from its beginning, and follow an open session to its end.

        The header of a WAV file that still grows declares an unknown length.
        """
        is_live = (await self.get(session_id))["recording"]["state"] != "ready"

        async def is_over() -> bool:
            session = await self.get(session_id)
            if session["recording"]["error"]:
                raise ConflictError(session["recording"]["error"]["detail"], session["recording"]["error"]["code"])
            is_empty = session["status"] == "completed" and not session["total_chunks"]
            return session["recording"]["state"] == "ready" or is_empty

        wav = LiveWav()
        async with aclosing(follow(self._transport, f"{_path(session_id)}/audio", is_over)) as blocks:
            async for block in blocks:
                if passed := wav.feed(block) if is_live else block:
                    yield passed

    async def waveform(
        self,
        session_id: str,
        *,
        points: int | None = None,
        start: float | None = None,
        end: float | None = None,
        on_making: Progress | None = None,
    ) -> Waveform:
        """Return the waveform between two moments in seconds, when it has been made."""
        parameters = {"points": points, "start": start, "end": end}
        path = f"{_path(session_id)}/waveform"
        return cast(Waveform, await self._transport.ready_json(path, parameters=parameters, on_progress=on_making))

    async def transcode(
        self,
        session_id: str,
        format: Target,
        *,
        timeout_seconds: float | None = None,
        on_progress: Progress | None = None,
    ) -> Task:
        """Make the recording in another format, wait until that is done, and return the task."""
        tasks = AsyncTasks(self._transport)
        started = await tasks.start("transcode", session_id, format)
        return await tasks.wait(started["task_id"], timeout_seconds=timeout_seconds, on_progress=on_progress)


class AsyncMarkers(Resource):
    """The markers of a session."""

    async def list(self, session_id: str) -> list[Marker]:
        """Return all markers, in the order in which they were added."""
        return await _all(self._transport, f"{_path(session_id)}/markers")

    async def add(self, session_id: str, label: str, position_seconds: float | None = None) -> Marker:
        """Add a marker. Without a position it is at the end of the audio so far."""
        body = {"label": label, "position_seconds": position_seconds}
        return cast(Marker, await self._transport.json("POST", f"{_path(session_id)}/markers", body=body))

    async def update(
        self, session_id: str, marker_id: str, *, label: str = _KEEP, position_seconds: float | None = _KEEP
    ) -> Marker:
        """Change a marker. Absent fields do not change."""
        body = _given(label=label, position_seconds=position_seconds)
        path = f"{_path(session_id)}/markers/{segment(marker_id)}"
        return cast(Marker, await self._transport.json("PATCH", path, body=body))

    async def delete(self, session_id: str, marker_id: str) -> None:
        """Delete a marker."""
        await self._transport.json("DELETE", f"{_path(session_id)}/markers/{segment(marker_id)}")


class AsyncTokens(Resource):
    """The tokens of a session, for browsers and devices."""

    async def list(self, session_id: str) -> list[Token]:
        """Return all tokens, newest first, without their secrets."""
        return await _all(self._transport, f"{_path(session_id)}/tokens")

    async def create(self, session_id: str, purpose: str = "record", *, expires_in_seconds: int | None = None) -> Token:
        """Create a token to `record` or to `listen`. `token` is shown once."""
        body = {"purpose": purpose} | ({"expires_in_seconds": expires_in_seconds} if expires_in_seconds else {})
        return cast(Token, await self._transport.json("POST", f"{_path(session_id)}/tokens", body=body))

    async def revoke(self, session_id: str, token_id: str) -> Token:
        """Revoke a token. Its connections end at once."""
        path = f"{_path(session_id)}/tokens/{segment(token_id)}"
        return cast(Token, await self._transport.json("DELETE", path))


class AsyncKeys(Resource):
    """API keys of the projects that the caller manages."""

    async def list(self, project: str | None = None) -> list[Key]:
        """Return all keys, newest first, without their secrets."""
        return await _all(self._transport, "/api/keys", project=project)

    async def create(
        self, name: str, scopes: Sequence[Scope], *, project: str | None = None, expires_at: str | None = None
    ) -> Key:
        """Create a key. `key` is shown once."""
        body = {"name": name, "scopes": [*scopes], "expires_at": expires_at} | ({"project": project} if project else {})
        return cast(Key, await self._transport.json("POST", "/api/keys", body=body))

    async def revoke(self, key_id: str) -> Key:
        """Revoke a key, its tokens and their connections."""
        return cast(Key, await self._transport.json("DELETE", f"/api/keys/{segment(key_id)}"))


class AsyncProjects(Resource):
    """The projects of the caller."""

    async def list(self) -> list[Project]:
        """Return the projects, with the caller's scopes and their limits."""
        return cast(list[Project], await self._transport.json("GET", "/api/projects"))


class AsyncWebhooks(Resource):
    """Webhooks of the projects that the caller manages."""

    async def list(self, project: str | None = None) -> list[Webhook]:
        """Return all webhooks, newest first, without their secrets."""
        return await _all(self._transport, "/api/webhooks", project=project)

    async def create(
        self, url: str, event_types: Sequence[str] = (), *, description: str = "", project: str | None = None
    ) -> Webhook:
        """Create a webhook. `secret` is shown once."""
        body = {"url": url, "event_types": [*event_types], "description": description}
        body |= {"project": project} if project else {}
        return cast(Webhook, await self._transport.json("POST", "/api/webhooks", body=body))

    async def get(self, webhook_id: str) -> Webhook:
        """Return a webhook."""
        return cast(Webhook, await self._transport.json("GET", _hook(webhook_id)))

    async def update(
        self,
        webhook_id: str,
        *,
        url: str = _KEEP,
        event_types: Sequence[str] = _KEEP,
        description: str = _KEEP,
        is_enabled: bool = _KEEP,
    ) -> Webhook:
        """Change, enable or disable a webhook. Absent fields do not change."""
        body = _given(url=url, event_types=event_types, description=description, is_enabled=is_enabled)
        return cast(Webhook, await self._transport.json("PATCH", _hook(webhook_id), body=body))

    async def delete(self, webhook_id: str) -> None:
        """Delete a webhook with its deliveries."""
        await self._transport.json("DELETE", _hook(webhook_id))

    async def rotate(self, webhook_id: str) -> Webhook:
        """Give a webhook a new secret. For a day events are also signed with the previous secret."""
        return cast(Webhook, await self._transport.json("POST", f"{_hook(webhook_id)}/rotate"))

    async def test(self, webhook_id: str) -> Delivery:
        """Send an event of the type `webhook.test`."""
        return cast(Delivery, await self._transport.json("POST", f"{_hook(webhook_id)}/test"))

    async def deliveries(self, webhook_id: str) -> AsyncGenerator[Delivery, None]:
        """Yield the deliveries with their attempts, newest first."""
        async for delivery in self._transport.items(f"{_hook(webhook_id)}/deliveries", {}):
            yield delivery

    async def replay(self, webhook_id: str, delivery_id: str) -> Delivery:
        """Send an event again, with the same id."""
        path = f"{_hook(webhook_id)}/deliveries/{segment(delivery_id)}/replay"
        return cast(Delivery, await self._transport.json("POST", path))


class AsyncTasks(Resource):
    """Background tasks."""

    async def list(self, session_id: str | None = None) -> list[Task]:
        """Return all tasks, newest first."""
        return await _all(self._transport, _TASKS, session_id=session_id)

    async def start(self, task: str, session_id: str, format: Target | None = None) -> Task:
        """Start a task: `transcode`, `waveform`, `concatenate` or `verify`. A transcode needs a format."""
        body = {"task": task, "session_id": session_id} | ({"format": format} if format else {})
        return cast(Task, await self._transport.json("POST", _TASKS, body=body))

    async def get(self, task_id: str) -> Task:
        """Return a task."""
        return cast(Task, await self._transport.json("GET", f"{_TASKS}/{segment(task_id)}"))

    async def revoke(self, task_id: str) -> Task:
        """Revoke a task, even while it runs."""
        return cast(Task, await self._transport.json("DELETE", f"{_TASKS}/{segment(task_id)}"))

    async def wait(
        self, task_id: str, *, timeout_seconds: float | None = None, on_progress: Progress | None = None
    ) -> Task:
        """Wait until a task is completed, and return it.

        Raises:
            ServerError: The task has failed or was revoked.
            TimeoutError: It takes longer.
        """
        deadline, delay_seconds = Deadline(timeout_seconds), _POLL_SECONDS[0]
        while True:
            task = await self.get(task_id)
            if task["status"] == "completed":
                return task
            if task["ended_at"]:
                raise error_of(task["error"] or {"detail": "The task was revoked.", "code": "task_ended"}, 409)
            if on_progress is not None:
                on_progress(task["progress"])
            deadline.check(f"The task {task_id} is not completed after {timeout_seconds} s.")
            await asyncio.sleep(delay_seconds)
            delay_seconds = min(delay_seconds * 1.5, _POLL_SECONDS[1])


_SESSIONS = "/api/audio/sessions"
_TASKS = "/api/tasks"


def _path(session_id: str) -> str:
    return f"{_SESSIONS}/{segment(session_id)}"


def _hook(webhook_id: str) -> str:
    return f"/api/webhooks/{segment(webhook_id)}"


def _filters(filters: SessionFilters) -> dict[str, Any]:
    metadata = {f"metadata.{key}": text for key, text in (filters.get("metadata") or {}).items()}
    return {**{name: value for name, value in filters.items() if name != "metadata"}, **metadata}


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not _KEEP}


async def _all(transport: Transport, path: str, **parameters: str | None) -> list[Any]:
    return [item async for item in transport.items(path, parameters)]
