"""Tickets, with the run's Redis as the cache that remembers which were spent."""

import threading
import uuid
from datetime import timedelta

import pytest
from django.core import signing
from django.utils import timezone

from audio.access import ANYONE, Identity, Kind, tickets
from audio.access.tickets import TICKET_SECONDS, make_ticket, spend_ticket
from audio.errors import NotAllowedError, ServiceError

pytestmark = pytest.mark.services  # Redis remembers the tickets
REDIS_CACHE = "django.core.cache.backends.redis.RedisCache"


def rejection(ticket: str, session_id: uuid.UUID | None) -> str:
    with pytest.raises(NotAllowedError) as caught:
        spend_ticket(ticket, session_id)
    return caught.value.detail


def test_a_ticket_is_good_once():
    session_id = uuid.uuid4()
    ticket = make_ticket(session_id, ANYONE)
    spend_ticket(ticket, session_id)
    assert "used before" in rejection(ticket, session_id)


def test_a_ticket_says_who_has_made_it():
    session_id, key_id = uuid.uuid4(), uuid.uuid4()
    maker = Identity(Kind.KEY, "abc", key=key_id)
    assert spend_ticket(make_ticket(session_id, maker), session_id) == ("key", str(key_id))
    # One of the version before this one, during an upgrade.
    assert spend_ticket(signing.dumps([session_id.hex, "nonce"], salt=tickets._SALT), session_id) == ("", "")


def test_tickets_of_a_session_are_spent_one_by_one():
    session_id = uuid.uuid4()
    first, second = make_ticket(session_id, ANYONE), make_ticket(session_id, ANYONE)
    spend_ticket(first, session_id)
    spend_ticket(second, session_id)


@pytest.mark.parametrize("shown_for", [uuid.uuid4(), None])
def test_a_ticket_opens_its_own_session_only_and_stays_good_for_it(shown_for):
    session_id = uuid.uuid4()
    ticket = make_ticket(session_id, ANYONE)
    assert "another session" in rejection(ticket, shown_for)
    spend_ticket(ticket, session_id)


@pytest.mark.parametrize("text", ["", "x", "a:b:c", "é", "\0", "W10:1:x"])
def test_what_is_no_ticket(text):
    assert "not valid" in rejection(text, uuid.uuid4())


def test_a_changed_ticket_is_rejected():
    session_id = uuid.uuid4()
    ticket = make_ticket(session_id, ANYONE)
    payload, rest = ticket.split(":", 1)
    other = make_ticket(uuid.uuid4(), ANYONE).split(":", 1)[0]
    for forged in (f"{other}:{rest}", f"{payload}x:{rest}", f"{ticket}x", ticket[:-1]):
        assert "not valid" in rejection(forged, session_id)


@pytest.mark.parametrize("salt", ["audio.ingest.tickets", "django.core.signing"])
def test_what_another_key_or_another_purpose_has_signed_is_rejected(settings, salt):
    session_id = uuid.uuid4()
    key = settings.SECRET_KEY if salt != tickets._SALT else "another key"
    assert "not valid" in rejection(signing.dumps([session_id.hex, "nonce"], key=key, salt=salt), session_id)


def test_an_old_ticket_is_rejected(monkeypatch):
    session_id = uuid.uuid4()
    then = timezone.now() - timedelta(seconds=TICKET_SECONDS + 1)
    with monkeypatch.context() as past:
        past.setattr("django.core.signing.time.time", then.timestamp)
        ticket = make_ticket(session_id, ANYONE)
    assert "has expired" in rejection(ticket, session_id)


def test_of_many_that_show_one_ticket_at_once_one_is_let_in():
    session_id = uuid.uuid4()
    ticket = make_ticket(session_id, ANYONE)
    barrier = threading.Barrier(8)
    admitted: list[bool] = []

    def show() -> None:
        barrier.wait()
        try:
            spend_ticket(ticket, session_id)
        except NotAllowedError:
            admitted.append(False)
        else:
            admitted.append(True)

    threads = [threading.Thread(target=show) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(admitted) == [False] * 7 + [True]


def test_without_redis_no_ticket_is_taken_and_the_client_is_told_to_come_back(settings, tmp_path):
    ticket = make_ticket(session_id := uuid.uuid4(), ANYONE)
    nowhere = {"default": {"BACKEND": REDIS_CACHE, "LOCATION": f"unix://{tmp_path}/redis.sock"}}
    with pytest.raises(ServiceError) as caught:
        settings.CACHES = nowhere
        spend_ticket(ticket, session_id)
    assert (caught.value.close_code, caught.value.retryable) == (1013, True)
