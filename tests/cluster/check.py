"""What `make chaos` looks at afterwards: every recording, the storage, and what `reindex` makes of the journals alone.

Each function returns the differences between what is there and what has to be there, as sentences.
"""

import contextlib
import itertools
import json
import shutil
import wave
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from uuid import UUID

from audio.journal.files import scan
from audio.journal.records import RecordType
from tests.client import Rest
from tests.cluster.clients import CHUNK_BYTES, samples
from tests.cluster.stack import Cluster
from tests.cluster.takes import Source, Take, chunk_id
from tests.server import eventually

# What rot has to be called: of the journal, of the chunk, and of the recording that could not be made from it.
ROT = {"chunk_damaged", "rebuild_failed", "recording_failed"}
# What an older database does not know of, and leaves to a person.
LEFT = {"orphan", "orphan_journal", "recording_aside"}
EMPTY = "reindexed"


@dataclass
class Checked:
    """What was compared, and what differs."""

    recordings: int = 0
    chunks: int = 0
    deleted: int = 0
    problems: int = 0
    reindexed: int = 0
    differences: list[str] = field(default_factory=list)


def check(cluster: Cluster, takes: Sequence[Take], restores: int) -> Checked:
    """Compare everything. The stack has to be whole; afterwards what is ours of it is stopped."""
    done = Checked()
    rest = cluster.web[0].rest
    _make_failed_anew(cluster, takes)
    for take in takes:
        done.differences += take.faults
        if not take.is_forgotten:
            done.differences += _compare(done, cluster, rest, take, restores)
    _verify(done, cluster, takes, restores)
    for part in cluster.products():
        part.stop()
    _look_for_deleted(done, cluster, takes)
    _reindex(done, cluster, takes)
    return done


def _make_failed_anew(cluster: Cluster, takes: Sequence[Take]) -> None:
    """As an operator does once what stood in the way is gone; what has rotted can't be made."""
    _until_made(cluster)
    failed = cluster.database.query("SELECT session_id FROM audio_recording WHERE state = 'failed'")
    sound = {take.session_id for take in takes if not take.is_rotten and not take.is_forgotten}
    if mine := [str(key) for (key,) in failed if str(key) in sound]:
        cluster.manage("rebuild", "--wait", *mine)


def _until_made(cluster: Cluster) -> None:
    """Wait until all sessions are closed, those of a restored backup by their grace, and nothing is left to be made."""
    waiting = (
        "SELECT count(*) FROM audio_recording r JOIN audio_audiosession s ON s.id = r.session_id"
        " WHERE s.total_chunks > 0 AND (s.status <> 'completed'"
        " OR r.state NOT IN ('ready', 'failed') OR r.rebuild_requested_at IS NOT NULL)"
    )
    eventually(lambda: cluster.database.query(waiting) == [(0,)], within_seconds=300)


# Recordings


def _compare(done: Checked, cluster: Cluster, rest: Rest, take: Take, restores: int) -> Iterator[str]:
    where = f"take {take.number} ({take.session_id})"
    places = take.acknowledged
    answer = rest.http.get(f"/api/audio/sessions/{take.session_id}") if take.session_id else None
    if answer is None or answer.status_code == 404:
        done.deleted += take.is_deleted
        if not take.is_doomed and (places or (take.ended_by and not restores)):
            yield f"{where}: it is gone, with {len(places)} acknowledged chunks"
        return
    if take.is_deleted:
        yield f"{where}: it was deleted, and is there"
    if take.is_doomed:
        return
    detail = answer.json()
    done.recordings += 1
    done.chunks += len(places)
    if take.ended_by and not detail["recovered"] and not take.sources[0].has_asked:
        yield f"{where}: {take.ended_by}, and nobody had closed it"
    if not detail["total_chunks"]:
        if places:
            yield f"{where}: it is empty, and {len(places)} chunks were acknowledged"
        return
    recordings = list(_recorded(cluster, rest, take, detail))
    differences = [list(_differences(take, recorded, detail)) for recorded in recordings] or [["no recording"]]
    # Of a chunk that has rotted, the recording of before is all that there is.
    for difference in min(differences, key=len) if take.is_rotten else differences[0]:
        yield f"{where}, {detail['recording']['state']}, recovered: {detail['recovered']}: {difference}"


def _recorded(cluster: Cluster, rest: Rest, take: Take, detail: dict[str, Any]) -> Iterator[bytes]:
    if detail["recording"]["state"] == "ready":
        answer = rest.http.get(f"/api/audio/sessions/{take.session_id}/audio")
        yield samples(answer.content) if answer.status_code == 200 else answer.content
    if take.is_rotten:
        folder = cluster.storage / "sessions" / UUID(take.session_id).hex[:2] / take.session_id
        # Where it stays until another one is ready, and where it is put then.
        for pattern in ("recording*", "aside/*"):
            yield from _of_files(path for path in sorted(folder.glob(pattern)) if path.suffix == ".wav")


def _of_files(paths: Iterable[Path]) -> Iterator[bytes]:
    for path in paths:
        with contextlib.suppress(wave.Error, EOFError):  # a run that died has left half of one
            yield samples(path.read_bytes())


def _differences(take: Take, recorded: bytes, detail: dict[str, Any]) -> Iterator[str]:
    found = [chunk_id(recorded[at : at + CHUNK_BYTES]) for at in range(0, len(recorded), CHUNK_BYTES)]
    is_exact = detail["recovered"] != "uncertain"
    if len(found) != detail["total_chunks"]:
        yield f"{len(found)} chunks are recorded, the session counts {detail['total_chunks']}"
    if None in found or any(each[0] != take.number for each in found if each):
        yield f"place {found.index(None) + 1 if None in found else '?'} holds no chunk that was sent"
    if is_exact:
        for place, expected in take.acknowledged.items():
            actual = found[place - 1] if place <= len(found) else None
            if actual != expected:
                yield f"place {place} holds {actual}, and {expected} was acknowledged"
                break
    for source in take.sources:
        numbers = [each[2] for each in found if each and each[1] == source.index]
        yield from _of_source(take, source, numbers, detail["recovered"])


def _of_source(take: Take, source: Source, numbers: list[int], recovered: str | None) -> Iterator[str]:
    which = f"source {source.index} ({source.name or 'unnamed'})"
    if missing := sorted(set(source.places.values()) - set(numbers)):
        yield f"{which}: {len(missing)} acknowledged chunks are missing, the first is {missing[0]}"
    # What `reindex` brings back is closed: a client that comes back can't send the rest.
    is_cut = bool(take.ended_by) and bool(recovered or not take.sources[0].has_asked)
    if recovered == "uncertain":
        known = set(source.places.values())
        if source.name and not _has_in_order(numbers, sorted(known)):
            yield f"{which}: the acknowledged chunks are not in their order"
        return
    if not source.name:
        doubled = len(numbers) - len(set(numbers))
        if doubled:
            yield f"{which}: {doubled} chunks are there twice"
        return
    count = len(numbers)
    if numbers != list(range(1, count + 1)):
        at = next(at for at, number in enumerate(numbers, start=1) if number != at)
        yield f"{which}: chunk {numbers[at - 1]} stands where {at} should be"
    elif count < source.stored or (count != source.goal and not is_cut):
        yield f"{which}: {count} chunks, {source.stored} are stored and {source.goal} were to be sent"


def _has_in_order(numbers: Iterable[Any], wanted: Sequence[Any]) -> bool:
    """Whether `wanted` can be had from `numbers` by leaving some out."""
    rest = iter(numbers)
    return all(each in rest for each in wanted)


# The storage


def _verify(done: Checked, cluster: Cluster, takes: Sequence[Take], restores: int) -> None:
    result = cluster.manage("verify", "--all", "--journals", "--orphans", "--json")
    rotten = {take.session_id for take in takes if take.is_rotten}
    forgotten = {take.session_id for take in takes if take.is_forgotten}
    if result.returncode not in (0, 1) or "Traceback" in result.stderr:
        done.differences.append(f"verify: exit code {result.returncode}: {result.stderr[-1000:]}")
    for line in result.stdout.splitlines():
        for problem in json.loads(line)["problems"]:
            done.problems += 1
            key = problem.get("session_id") or _session_of(problem.get("file_name", ""))
            is_expected = key in forgotten or (key in rotten and problem["code"] in ROT)
            if not is_expected and not (restores and problem["code"] in LEFT):
                done.differences.append(f"verify: {problem}")


def _session_of(name: str) -> str:
    """Return whose file it is: `sessions/12/12345678-.../recording.wav`."""
    parts = Path(name).parts
    return parts[2] if len(parts) > 2 and parts[0] == "sessions" else ""


def _look_for_deleted(done: Checked, cluster: Cluster, takes: Sequence[Take]) -> None:
    """Nothing of a deleted session is left, once upkeep was there."""
    result = cluster.manage("sweep", "--json")
    if "Traceback" in result.stderr:
        done.differences.append(f"sweep: {result.stderr[-1000:]}")
    deleted = {UUID(take.session_id) for take in takes if take.is_deleted and not take.is_forgotten}
    left: dict[UUID, int] = defaultdict(int)
    for path in cluster.storage.rglob("*.journal"):
        for record in scan(path):
            header = record.header
            if header.type is RecordType.CHUNK and header.session_id in deleted and not header.erased:
                left[header.session_id] += 1
    done.differences += [f"{key} was deleted; {count} of its chunks are left" for key, count in left.items()]
    for key in deleted:
        if (cluster.storage / "sessions" / key.hex[:2] / str(key)).exists():
            done.differences.append(f"{key} was deleted; its folder is left")


# The journals alone

Rows = dict[str, list[tuple[Any, ...]]]


def _reindex(done: Checked, cluster: Cluster, takes: Sequence[Take]) -> None:
    copy = cluster.folder / EMPTY
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(cluster.storage, copy)
    cluster.database.query(f"DROP DATABASE IF EXISTS {EMPTY}")
    cluster.database.query(f"CREATE DATABASE {EMPTY}")
    url = cluster.database.url().removesuffix("postgres") + EMPTY
    where = {"AUDIO_STORAGE_PATH": str(copy), "DATABASE_URL": url, "DATA_DIR": str(cluster.folder / "data")}
    cluster.manage("migrate", "--verbosity", "0", **where).check_returncode()
    result = cluster.manage("reindex", "--json", **where)
    rotten = {take.session_id for take in takes if take.is_rotten}
    forgotten = {take.session_id for take in takes if take.is_forgotten}
    if not result.stdout:
        done.differences.append(f"reindex: exit code {result.returncode}: {result.stderr[-1000:]}")
        return
    for problem in json.loads(result.stdout)["problems"]:
        if problem.get("session_id") not in forgotten | rotten:
            done.differences.append(f"reindex: {problem}")
    _compare_rows(done, cluster, forgotten, rotten)


def _compare_rows(done: Checked, cluster: Cluster, forgotten: set[str], rotten: set[str]) -> None:
    before, after = _rows(cluster, ""), _rows(cluster, EMPTY)
    recovered = "SELECT id, recovered FROM audio_audiosession"
    outcomes = {str(key): how for key, how in cluster.database.query(recovered, database=EMPTY)}
    for key, rows in before.items():
        if key in forgotten:
            continue
        done.reindexed += 1
        if key not in outcomes:
            done.differences.append(f"reindex: {key} with {len(rows)} chunks does not come back")
        elif outcomes[key] == "exact" and rows != after.get(key):
            at, pair = _first_difference(rows, after.get(key, []))
            done.differences.append(f"reindex: {key} is exact, and differs at chunk {at}: {pair}")
        elif outcomes[key] != "exact":
            done.differences += _uncertain(key, rows, after.get(key, []), may_lack=int(key in rotten))
    strangers = set(outcomes) - set(before) - forgotten
    sessions = {str(key) for (key,) in cluster.database.query("SELECT id FROM audio_audiosession")}
    done.differences += [f"reindex: {key} comes back, and there is no such session" for key in strangers - sessions]


def _rows(cluster: Cluster, database: str) -> Rows:
    statement = (
        "SELECT c.session_id::text, c.sequence, s.name, c.size_bytes, c.crc32, c.received_at FROM audio_audiochunk c"
        " JOIN audio_audiosource s ON s.id = c.source_id ORDER BY 1, 2"
    )
    found = cluster.database.query(statement, database=database)
    return {key: [row[1:] for row in rows] for key, rows in itertools.groupby(found, key=lambda row: row[0])}


def _first_difference(rows: list[Any], others: list[Any]) -> tuple[int, tuple[Any, Any]]:
    pairs = itertools.zip_longest(rows, others)
    return next((at, pair) for at, pair in enumerate(pairs, start=1) if pair[0] != pair[1])


def _uncertain(
    key: str, rows: list[tuple[Any, ...]], others: list[tuple[Any, ...]], may_lack: int = 0
) -> Iterator[str]:
    """Every chunk is there, but for those that have rotted; those of a named source are in their order."""
    for name in {row[1] for row in rows}:
        mine = [row[1:] for row in rows if row[1] == name]
        theirs = [row[1:] for row in others if row[1] == name]
        missing = set(mine) - set(theirs)
        if len(missing) > may_lack:
            yield f"reindex: {key} is uncertain, and {len(missing)} chunks of {name!r} are missing"
        elif name and not _has_in_order(theirs, [row for row in mine if row not in missing]):
            yield f"reindex: {key} is uncertain, and the chunks of {name!r} are not in their order"
