"""PURE. The chunks in flight, whose outcome only the lost database knew: which are restored, and in which order."""

from collections import deque
from collections.abc import Iterable, Sequence

from audio.integrity.reindex.state import ConnectionCounts, InFlightChunk, JournaledSession
from audio.journal.records import Header


def accepted(session: JournaledSession) -> list[InFlightChunk]:
    """Return the chunks in flight that were or may have been accepted, in the order of their arrival."""
    kept: dict[tuple[int, int, bool], int] = {}
    taken = []
    for chunk in sorted(session.in_flight, key=lambda chunk: chunk.header.number):
        most, key = _most_accepted(session, chunk.header)
        kept[key] = kept.get(key, 0) + 1
        if most is None or kept[key] <= most:
            taken.append(chunk)
    return _by_arrival(taken)


def _most_accepted(session: JournaledSession, header: Header) -> tuple[int | None, tuple[int, int, bool]]:
    """Return the number of accepted chunks of a chunk's group that no commit names, and the key of the group.

    A group is the chunks of one connection either before or after the last one that a commit names. The number is None
    if it is unknown.
    """
    if not header.epoch:
        return None, (header.source_id, 0, False)
    connections = session.connections[header.source_id]
    connection = connections[header.epoch]
    is_before = header.number < connection.last_number
    most = connection.accepted_before() if is_before else _accepted_behind(connections, header.epoch)
    return most, (header.source_id, header.epoch, is_before)


def _accepted_behind(connections: dict[int, ConnectionCounts], epoch: int) -> int | None:
    """Return the number of accepted chunks of a connection after its last committed one; None if it is unknown.

    The next connection of a named source continues the count after the accepted chunks, so its first number shows it.
    """
    later = [number for number in connections if number > epoch]
    if not later:
        return None
    connection = connections[epoch]
    known = max(connection.last_count, connection.first_number - 1)
    return connections[min(later)].first_number - 1 - known


def _by_arrival(chunks: Sequence[InFlightChunk]) -> list[InFlightChunk]:
    """Return the chunks in the order of their arrival.

    That is the order of their journals and of their named sources, and otherwise the order of their times. Times come
    last because clocks differ and may be set back.
    """
    journals: dict[int, deque[InFlightChunk]] = {}
    for chunk in sorted(chunks, key=lambda chunk: chunk.offset):
        journals.setdefault(chunk.journal_id, deque()).append(chunk)
    sources: dict[int, deque[tuple[int, int]]] = {}
    for source_id, *turn in sorted(_turn(chunk) for chunk in chunks):
        sources.setdefault(source_id, deque()).append((turn[0], turn[1]))
    ordered = []
    while heads := [journal[0] for journal in journals.values() if journal]:
        next_ones = [chunk for chunk in heads if _turn(chunk)[1:] == sources[chunk.header.source_id][0]]
        chunk = min(next_ones or heads, key=lambda chunk: (chunk.header.received_at_us, chunk.journal_id))
        journals[chunk.journal_id].popleft()
        sources[chunk.header.source_id].remove(_turn(chunk)[1:])
        ordered.append(chunk)
    return ordered


def _turn(chunk: InFlightChunk) -> tuple[int, int, int]:
    """Return a chunk's source and its position in the source. Chunks of the unnamed source have no order."""
    header = chunk.header
    return (header.source_id, header.epoch, header.number) if header.epoch else (header.source_id, 0, 0)


def free_sequences(chunks: Iterable[InFlightChunk], gaps: list[tuple[int, int]], last: int) -> list[int]:
    """Return the sequences that chunks of a session get whose outcome is unknown.

    Each gets the first free sequence after those of its journal and, if its source has a name, of its source.

    Args:
        chunks: The chunks, in the order of their arrival.
        gaps: The ranges of sequences that no chunk of the session has. Those that are returned are removed.
        last: The last sequence of a chunk of the session.
    """
    sequences = []
    in_journals: dict[int, int] = {}
    in_sources: dict[int, int] = {}
    for chunk in chunks:
        source_id = chunk.header.source_id if chunk.header.epoch else 0
        behind = max(chunk.after, in_journals.get(chunk.journal_id, 0), in_sources.get(source_id, 0))
        sequence = _take_gap(gaps, behind)
        if not sequence:
            sequence = last = last + 1
        in_journals[chunk.journal_id] = sequence
        if source_id:
            in_sources[source_id] = sequence
        sequences.append(sequence)
    return sequences


def _take_gap(gaps: list[tuple[int, int]], behind: int) -> int:
    """Remove the first free sequence after `behind` from the ranges, and return it; 0 if there is none."""
    for index, (first, last) in enumerate(gaps):
        sequence = max(first, behind + 1)
        if sequence <= last:
            parts = ((first, sequence - 1), (sequence + 1, last))
            gaps[index : index + 1] = [part for part in parts if part[0] <= part[1]]
            return sequence
    return 0
