"""Requests for tasks, with a broker that is there and one that is not."""

import contextlib
import socket
import threading
import uuid

import pytest
from celery import Celery
from django.db import transaction

from audio import dispatch
from sercuescribe.celery import app
from tests.broker import requests_for, shown_for

pytestmark = pytest.mark.services  # requests go to Redis


@contextlib.contextmanager
def broker(url: str, settings):
    """Makes `url` the broker of the current Celery application."""
    settings.CELERY_BROKER_URL = url
    other = Celery("elsewhere", set_as_current=False)
    other.config_from_object("django.conf:settings", namespace="CELERY")
    other.set_current()
    try:
        yield
    finally:
        app.set_current()
        other.close()


@pytest.mark.django_db(transaction=True)
def test_a_request_leaves_with_the_commit():
    session_id = uuid.uuid4()
    with transaction.atomic():
        dispatch.concatenate(session_id)
        assert requests_for(session_id) == []
    assert requests_for(session_id) == [dispatch.CONCATENATE]


def test_windows_of_many_sessions_are_one_request():
    first, second = uuid.uuid4(), uuid.uuid4()
    dispatch.concatenate_live([first, second])
    assert requests_for(first) == requests_for(second) == [dispatch.CONCATENATE_LIVE]


def test_an_operator_sees_how_many_sessions_a_request_is_for_and_the_first_of_them():
    keys = [uuid.uuid4() for _ in range(3)]
    dispatch.concatenate_live(keys)
    dispatch.concatenate_live(keys[:1])
    assert shown_for(keys[0]) == [f"(3 sessions, {keys[0]}, {keys[1]}, ...)", f"(1 sessions, {keys[0]})"]


def test_a_broker_that_is_away_is_asked_once_and_left_to_the_sweep(settings, tmp_path, caplog):
    """The thread that asks is one of few that open and close sessions: it must not wait for the broker."""
    path = str(tmp_path / "redis.sock")
    attempts: list[None] = []
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def reject() -> None:
            with contextlib.suppress(OSError):
                while True:
                    listener.accept()[0].close()
                    attempts.append(None)

        thread = threading.Thread(target=reject)
        thread.start()
        with broker(f"redis+socket://{path}", settings):
            dispatch.concatenate_live([uuid.uuid4()])
        listener.shutdown(socket.SHUT_RDWR)
        thread.join()
    assert "broker_away" in caplog.text
    assert len(attempts) == 1
