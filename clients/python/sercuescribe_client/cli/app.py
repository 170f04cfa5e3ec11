"""The commands and their options."""

from enum import Enum
from pathlib import Path
from typing import Annotated, Any

import typer

from sercuescribe_client.cli import listening, recording, shown
from sercuescribe_client.cli.execution import ApiKey, AsJson, Url, execute, pairs_of, write_json
from sercuescribe_client.client import AsyncClient
from sercuescribe_client.errors import ScribeError
from sercuescribe_client.models import AnyFormat, ChunkMode, Encoding, Format, Scope, Status
from sercuescribe_client.plain import Client
from sercuescribe_client.recorder import RecordOptions
from sercuescribe_client.version import __version__

_COMPLETED_SESSIONS = 20
_COMPLETION_TIMEOUT_SECONDS = 2.0

app = typer.Typer(
    name="scribe",
    epilog="Example: scribe record talk.wav --name Talk",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)
keys = typer.Typer(
    help="API keys of the projects that you manage.", no_args_is_help=True, epilog="Example: scribe keys list"
)
app.add_typer(keys, name="keys")


class KeyScope(Enum):
    """A scope of a key. Typer knows lists of an Enum, and no lists of a Literal."""

    read = "read"
    record = "record"
    manage = "manage"


SessionId = Annotated[
    str, typer.Argument(metavar="SESSION", help="The id of a session.", autocompletion=lambda: _complete_sessions())
]
SessionIds = Annotated[
    list[str],
    typer.Argument(metavar="SESSION...", help="Ids of sessions.", autocompletion=lambda: _complete_sessions()),
]


def _complete_sessions() -> list[str]:
    """Return the newest sessions for the shell. It completes nothing if the server does not answer."""
    try:
        with Client(timeout_seconds=_COMPLETION_TIMEOUT_SECONDS) as client:
            found = client.sessions.list(page_size=_COMPLETED_SESSIONS).items
    except ScribeError:
        return []
    return [session["session_id"] for session in found]


def _show_version(is_wanted: bool) -> None:
    if is_wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def scribe(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Write the version and exit.")
    ] = False,
) -> None:
    """Record sound on a SercueScribe server, and list, listen to and download recordings.

    Set the server and the API key in SERCUESCRIBE_URL and SERCUESCRIBE_API_KEY. The exit codes are: 0 done, 1 failed,
    2 wrong command line, 3 no response from the server, 4 not allowed, 5 not found, 6 not complete or damaged,
    130 interrupted.
    """


@app.command(epilog="Example: scribe record talk.wav --name 'A talk' --metadata room=4 --marker 62.5=Questions")
def record(
    file: Annotated[str | None, typer.Argument(metavar="FILE|-", help="A file, or - for standard input.")] = None,
    microphone: Annotated[bool, typer.Option("--microphone", "-m", help="Record a microphone with FFmpeg.")] = False,
    realtime: Annotated[bool, typer.Option("--realtime", help="Send a file at the pace of its sound.")] = False,
    name: Annotated[str | None, typer.Option(help="The title of the session.")] = None,
    metadata: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Metadata; can be repeated.")] = [],  # noqa: B006
    marker: Annotated[list[str], typer.Option(metavar="SECONDS=LABEL", help="A marker; can be repeated.")] = [],  # noqa: B006
    project: Annotated[str | None, typer.Option(help="The project of the session.")] = None,
    user_id: Annotated[str | None, typer.Option(help="Who speaks, or another label of your choice.")] = None,
    session: Annotated[str | None, typer.Option(help="Continue this session.")] = None,
    source: Annotated[
        str | None, typer.Option(help="The name of this stream. With --session, continue this source.")
    ] = None,
    audio_format: Annotated[
        Format | None, typer.Option("--format", help="The format. By default the first bytes decide.")
    ] = None,
    sample_rate: Annotated[int | None, typer.Option(help="The sample rate in Hz of sound without a header.")] = None,
    channels: Annotated[int | None, typer.Option(help="The channels (1 or 2) of sound without a header.")] = None,
    encoding: Annotated[Encoding | None, typer.Option(help="How raw PCM is encoded.")] = None,
    chunks: Annotated[ChunkMode | None, typer.Option(help="How chunks and files relate.")] = None,
    driver: Annotated[str | None, typer.Option(help="The input of FFmpeg: alsa, pulse, avfoundation, dshow.")] = None,
    device: Annotated[str | None, typer.Option(help="The microphone, as FFmpeg names it.")] = None,
    duration: Annotated[float | None, typer.Option(help="Stop recording after these seconds.")] = None,
    ffmpeg: Annotated[str | None, typer.Option(envvar="FFMPEG_BINARY", help="The path of FFmpeg.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Record a file, standard input or a microphone, and write the id of the session.

    The command reconnects after a lost connection. Ctrl-C ends the recording and closes the session; a second Ctrl-C
    ends the command at once.
    """
    audio = RecordOptions(
        format=audio_format, sample_rate=sample_rate, channels=channels, encoding=encoding, chunks=chunks
    )
    details = RecordOptions(session_id=session, source=source, name=name, project=project, user_id=user_id)
    from_microphone = recording.Microphone(microphone, driver, device, duration, ffmpeg)
    wanted = recording.Wanted(file, from_microphone, realtime, {**audio, **details}, marker, metadata, as_json)
    execute(lambda client: recording.record(client, wanted), url, api_key, as_json)


@app.command(epilog="Example: scribe sessions --status active --metadata room=4")
def sessions(
    status: Annotated[Status | None, typer.Option(help="Only sessions in this state.")] = None,
    name: Annotated[str | None, typer.Option(help="The beginning of the name.")] = None,
    metadata: Annotated[list[str], typer.Option(metavar="KEY=VALUE", help="Metadata; can be repeated.")] = [],  # noqa: B006
    project: Annotated[str | None, typer.Option(help="Only sessions of this project.")] = None,
    user_id: Annotated[str | None, typer.Option(help="Only sessions with this label.")] = None,
    audio_format: Annotated[Format | None, typer.Option("--format", help="Only sessions in this format.")] = None,
    started_after: Annotated[
        str | None, typer.Option(metavar="TIME", help="Started after, as in 2026-11-27T09:00:00Z.")
    ] = None,
    started_before: Annotated[
        str | None, typer.Option(metavar="TIME", help="Started before, as in 2026-11-27T10:00:00Z.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="The maximum number of sessions.")] = 50,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List sessions, newest first."""

    async def work(client: AsyncClient) -> None:
        found: list[Any] = []
        async for session in client.sessions.iterate(
            status=status,
            name=name,
            metadata=pairs_of(metadata),
            project=project,
            user_id=user_id,
            format=audio_format,
            started_after=started_after,
            started_before=started_before,
        ):
            found.append(session)
            if len(found) >= limit:
                break
        write_json(found) if as_json else shown.sessions(found)

    execute(work, url, api_key, as_json)


@app.command(epilog="Example: scribe show 123e4567-e89b-42d3-a456-426614174000 --json")
def show(session: SessionId, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Show a session and its recording."""

    async def work(client: AsyncClient) -> None:
        found = await client.sessions.get(session)
        write_json(found) if as_json else shown.session(found)

    execute(work, url, api_key, as_json)


@app.command(epilog="Example: scribe listen 123e4567-e89b-42d3-a456-426614174000 --stdout | mpv -")
def listen(
    session: SessionId,
    to_stdout: Annotated[bool, typer.Option("--stdout", help="Write the sound instead of playing it.")] = False,
    player: Annotated[str | None, typer.Option(help="A program that plays the sound on its standard input.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Play a recording with ffplay, and follow an open session to its end."""

    async def work(client: AsyncClient) -> None:
        await listening.listen(client, session, player, to_stdout)

    execute(work, url, api_key, as_json)


@app.command(epilog="Example: scribe download 123e4567-e89b-42d3-a456-426614174000 -o talk.mp3 --format mp3")
def download(
    session: SessionId,
    output: Annotated[
        str | None,
        typer.Option("--output", "-o", metavar="FILE|-", help="The file to write. The default is SESSION.FORMAT."),
    ] = None,
    audio_format: Annotated[
        AnyFormat | None, typer.Option("--format", help="Another format than that of the recording.")
    ] = None,
    markers: Annotated[
        bool, typer.Option("--markers", help="Write the markers into a WAV file as cue points.")
    ] = False,
    partial: Annotated[
        bool, typer.Option("--partial", help="Download the part of a failed recording that could be made.")
    ] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Download a recording when it is ready, and compare it with its SHA-256.

    An interrupted download continues where it stopped.
    """

    async def work(client: AsyncClient) -> None:
        if output == "-":
            await listening.write(client.sessions.read(session, format=audio_format))
            return
        suffix = audio_format or (await client.sessions.get(session))["recording"]["format"]
        path = Path(output or f"{session}.{suffix}")
        done = await listening.download(client, session, path, audio_format, markers, partial, as_json)
        shown_fields = {
            "path": str(done.path),
            "size_bytes": done.size_bytes,
            "sha256": done.sha256,
            "is_verified": done.is_verified,
        }
        write_json(shown_fields) if as_json else typer.echo(done.path)

    execute(work, url, api_key, as_json)


@app.command(epilog="Example: scribe close 123e4567-e89b-42d3-a456-426614174000")
def close(session: SessionIds, url: Url = None, api_key: ApiKey = None, as_json: AsJson = False) -> None:
    """Close sessions, so that their recordings are finished."""

    async def work(client: AsyncClient) -> None:
        closed = [await client.sessions.close(session_id) for session_id in session]
        write_json(closed) if as_json else shown.sessions(closed)

    execute(work, url, api_key, as_json)


@app.command(epilog="Example: scribe delete 123e4567-e89b-42d3-a456-426614174000 --yes")
def delete(
    session: SessionIds,
    is_sure: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Delete sessions with their recordings. This cannot be undone."""
    if not is_sure:
        which = (
            "the session with its recording" if len(session) == 1 else f"{len(session)} sessions with their recordings"
        )
        typer.confirm(f"Delete {which}?", abort=True, err=True)

    async def work(client: AsyncClient) -> None:
        for session_id in session:
            await client.sessions.delete(session_id)
        write_json({"deleted": session}) if as_json else None

    execute(work, url, api_key, as_json)


@app.command(epilog="Example: scribe markers 123e4567-e89b-42d3-a456-426614174000 --add 62.5=Questions")
def markers(
    session: SessionId,
    add: Annotated[list[str], typer.Option(metavar="SECONDS=LABEL", help="Add a marker; can be repeated.")] = [],  # noqa: B006
    remove: Annotated[list[str], typer.Option(metavar="MARKER", help="Delete a marker; can be repeated.")] = [],  # noqa: B006
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List, add and delete the markers of a session."""

    async def work(client: AsyncClient) -> None:
        for seconds, label in recording.markers_of(add):
            await client.markers.add(session, label, seconds)
        for marker_id in remove:
            await client.markers.delete(session, marker_id)
        found = await client.markers.list(session)
        write_json(found) if as_json else shown.markers(found)

    execute(work, url, api_key, as_json)


@keys.command("list", epilog="Example: scribe keys list --project default")
def list_keys(
    project: Annotated[str | None, typer.Option(help="Only keys of this project.")] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """List API keys, newest first, without their secrets."""

    async def work(client: AsyncClient) -> None:
        found = await client.keys.list(project)
        write_json(found) if as_json else shown.keys(found)

    execute(work, url, api_key, as_json)


@keys.command("create", epilog="Example: scribe keys create phone-bridge --scope record --scope read")
def create_key(
    name: Annotated[str, typer.Argument(help="Which program gets the key.")],
    scope: Annotated[list[KeyScope], typer.Option(help="What the key may do; can be repeated.")],
    project: Annotated[str | None, typer.Option(help="The project of the key.")] = None,
    expires_at: Annotated[
        str | None, typer.Option(metavar="TIME", help="When the key expires, such as 2027-01-31T00:00:00Z.")
    ] = None,
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Create an API key and print it. It is not shown again."""

    async def work(client: AsyncClient) -> None:
        scopes: list[Scope] = [each.value for each in scope]
        made = await client.keys.create(name, scopes, project=project, expires_at=expires_at)
        write_json(made) if as_json else typer.echo(made["key"])

    execute(work, url, api_key, as_json)


@keys.command("revoke", epilog="Example: scribe keys revoke 123e4567-e89b-42d3-a456-426614174000")
def revoke_key(
    key: Annotated[str, typer.Argument(metavar="KEY", help="The id of a key, or its prefix.")],
    url: Url = None,
    api_key: ApiKey = None,
    as_json: AsJson = False,
) -> None:
    """Revoke an API key, its tokens and their connections."""

    async def work(client: AsyncClient) -> None:
        by_prefix = [each["id"] for each in await client.keys.list() if each["prefix"] == key]
        revoked = await client.keys.revoke(by_prefix[0] if by_prefix else key)
        write_json(revoked) if as_json else shown.keys([revoked])

    execute(work, url, api_key, as_json)
