"""What an operator may do to sessions, who may, and that it is written down."""

import pytest
from django.contrib.admin.models import CHANGE, DELETION, LogEntry
from django.contrib.auth.models import Permission, User
from django.utils import timezone

from audio import dispatch, upkeep
from audio.admin import actions
from audio.jobs import rows
from audio.models import AudioChunk, AudioSession, BackgroundTask, Recording, TaskKind
from audio.upkeep.removal import REPEAT_DELETION_AFTER
from tasks.removal import delete_session
from tests.api.rows import make_chunks, make_session
from tests.broker import requests_for

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

LIST = "/admin/audio/audiosession/"
ACTIONS = [
    *("close_selected", "rebuild_selected", "verify_selected", "transcode_selected"),
    *("hold_selected", "lift_selected", "delete_selected"),
]
OF_DELETERS = ("hold_selected", "lift_selected", "delete_selected")


def user_with(*permissions, is_staff=True):
    user = User.objects.create_user("-".join(permissions) or "nobody", is_staff=is_staff)
    user.user_permissions.set(Permission.objects.filter(codename__in=[f"{each}_audiosession" for each in permissions]))
    return user


@pytest.fixture
def operator(client):
    """Signed in as one who may change sessions and not delete them."""
    client.force_login(user_with("view", "change"))
    return client


@pytest.fixture
def ready():
    session = make_session(
        {"state": "ready", "format": "wav", "duration_seconds": 1.5, "size_bytes": 3200, "file_name": "a.wav"},
        status="completed",
    )
    make_chunks(session, 1)
    return session


def act(client, name, *sessions, **more):
    keys = [str(session.pk) for session in sessions]
    return client.post(LIST, {"action": name, "_selected_action": keys, **more}, follow=True)


def said(answer):
    return [str(message) for message in answer.context["messages"]]


def entries(session):
    return list(LogEntry.objects.filter(object_id=str(session.pk)).values_list("user__username", "action_flag"))


def state(session):
    """Everything that an action could change."""
    return (
        list(AudioSession.objects.filter(pk=session.pk).values()),
        list(Recording.objects.filter(pk=session.pk).values()),
        list(BackgroundTask.objects.filter(session=session.pk).values()),
        requests_for(session.pk),
        requests_for(session.pk, "jobs"),
        LogEntry.objects.count(),
    )


# What each action does


def test_close(operator):
    open_session, closed = make_session(), make_session(status="completed")
    answer = act(operator, "close_selected", open_session, closed)
    assert said(answer) == [
        "1 session: Closed.",
        "1 session not changed: The session is closed and accepts no more audio.",
    ]
    assert AudioSession.objects.get(pk=open_session.pk).status == "completed"
    assert requests_for(open_session.pk) == [dispatch.CONCATENATE]
    assert entries(open_session) == [("view-change", CHANGE)]
    assert entries(closed) == []


def test_rebuild(operator, ready):
    live, empty = make_session(), make_session(status="completed")
    answer = act(operator, "rebuild_selected", ready, live, empty)
    recording = Recording.objects.get(pk=ready.pk)
    assert (recording.state, recording.rebuild_requested_at is None) == ("ready", False)
    assert requests_for(ready.pk) == [dispatch.CONCATENATE]
    assert len(said(answer)) == 3
    assert (len(entries(ready)), entries(live), entries(empty)) == (1, [], [])


def test_transcode(operator, ready):
    live = make_session()
    act(operator, "transcode_selected", ready, live, format="mp3")
    task = BackgroundTask.objects.get()
    assert (task.session_id, task.kind, task.format) == (ready.pk, "transcode", "mp3")
    assert LogEntry.objects.get().change_message == "The transcode to mp3 was requested."


def test_verify(operator, ready):
    act(operator, "verify_selected", ready)
    task = BackgroundTask.objects.get()
    assert (task.session_id, task.kind) == (ready.pk, "verify")
    assert LogEntry.objects.get().change_message == "The verification was requested."
    assert "verify" in operator.get(f"{LIST}{ready.pk}/change/").content.decode()


@pytest.mark.parametrize("key", ["", "abc", "a\0", "-1", "9" * 30])
@pytest.mark.parametrize("model", ["audiosession", "apikey", "sessiontoken", "webhookendpoint", "webhookdelivery"])
def test_a_selection_that_can_be_no_row_is_rejected(admin_client, model, key):
    admin_client.raise_request_exception = False
    names = {"audiosession": "close_selected", "webhookendpoint": "test_selected", "webhookdelivery": "replay_selected"}
    fields = {"action": names.get(model, "revoke_selected"), "_selected_action": key}
    assert admin_client.post(f"/admin/audio/{model}/", fields).status_code == 400


@pytest.mark.parametrize("audio_format", ["", "exe"])
def test_a_transcode_needs_a_format(operator, ready, audio_format):
    act(operator, "transcode_selected", ready, format=audio_format)
    operator.post(f"{LIST}{ready.pk}/act/", {"action": "transcode_selected", "format": audio_format})
    assert not BackgroundTask.objects.exists()
    assert not LogEntry.objects.exists()


def test_delete_asks_first_and_then_goes_on_in_the_background(admin_client, ready):
    other = make_session()
    page = act(admin_client, "delete_selected", ready).content.decode()
    assert str(ready.pk) in page
    assert "1 chunk, 3.1\N{NO-BREAK SPACE}KB" in page
    assert AudioSession.objects.get(pk=ready.pk).delete_requested_at is None
    answer = act(admin_client, "delete_selected", ready, post="yes")
    assert "being deleted" in answer.content.decode()
    assert requests_for(ready.pk, "jobs") == [dispatch.DELETE_SESSION]
    assert entries(ready) == [("admin", DELETION)]
    assert said(act(admin_client, "delete_selected", ready, post="yes")) == [
        "1 session not changed: The session is already being deleted."
    ]
    delete_session(str(ready.pk))
    delete_session(str(ready.pk))
    assert list(AudioSession.objects.all()) == [other]
    assert not AudioChunk.objects.exists()
    log = admin_client.get("/admin/admin/logentry/").content.decode()
    assert str(ready.pk) in log
    assert "all its data" in log


def test_an_open_session_takes_nothing_more_once_its_deletion_is_asked_for(admin_client):
    session = make_session()
    admin_client.post(f"{LIST}{session.pk}/delete/", {"post": "yes"})
    marked = AudioSession.objects.get(pk=session.pk)
    assert (marked.status, marked.delete_requested_at is not None) == ("completed", True)


def test_a_deletion_that_the_queue_lost_is_asked_for_again():
    session, late = make_session(), timezone.now() - 2 * REPEAT_DELETION_AFTER
    assert upkeep.enqueue_deletion(session.pk)
    assert upkeep.sweep().requested_deletions == 0
    AudioSession.objects.update(delete_requested_at=late)
    assert upkeep.sweep().requested_deletions == 1
    assert upkeep.sweep().requested_deletions == 0
    assert requests_for(session.pk, "jobs") == 2 * [dispatch.DELETE_SESSION]


def test_too_many_at_once_are_rejected(operator, monkeypatch):
    monkeypatch.setattr(actions, "ACTION_LIMIT", 2)
    sessions = [make_session() for _ in range(3)]
    for _ in sessions:
        answer = act(operator, "close_selected", sessions[0], select_across=1)
    assert "more than 2 sessions" in said(answer)[0]
    assert AudioSession.objects.filter(status="active").count() == 3
    act(operator, "close_selected", *sessions[:2])
    assert AudioSession.objects.filter(status="active").count() == 1


# Who may


@pytest.mark.parametrize("name", ACTIONS)
@pytest.mark.parametrize("who", ["owner", "operator", "viewer", "outsider", "nobody"])
def test_permissions_decide(client, ready, who, name, caplog):
    """Every door is tried, with what a page would not offer too."""
    session = make_session() if name == "close_selected" else ready
    AudioSession.objects.filter(pk=session.pk).update(legal_hold=name == "lift_selected")
    users = {
        "owner": lambda: User.objects.create_superuser("owner"),
        "operator": lambda: user_with("view", "change"),
        "viewer": lambda: user_with("view"),
        "outsider": lambda: user_with("view", "change", "delete", is_staff=False),
    }
    if who in users:
        client.force_login(users[who]())
    may = who == "owner" or (who == "operator" and name not in OF_DELETERS)
    before = state(session)
    given = {"action": name, "format": "mp3", "post": "yes"}
    answers = [client.post(LIST, {**given, "_selected_action": str(session.pk), "index": "0"})]
    answers.append(client.post(f"{LIST}{session.pk}/act/", given))
    if name == "delete_selected":
        answers.append(client.post(f"{LIST}{session.pk}/delete/", {"post": "yes"}))
    assert (state(session) != before) is may
    if not may:
        # The list is shown again; every other door is shut.
        assert answers[0].status_code in (200, 302)
        assert {answer.status_code for answer in answers[1:]} == {403 if who in ("operator", "viewer") else 302}
    if who in ("outsider", "nobody"):
        assert all(answer["Location"].startswith("/admin/login/") for answer in answers)
        assert client.get(f"{LIST}{session.pk}/delete/").status_code == 302


@pytest.mark.parametrize(
    ("permissions", "offered"),
    [
        (["view"], []),
        (["view", "change"], ["close_selected", "rebuild_selected", "verify_selected", "transcode_selected"]),
        (["view", "delete"], [*OF_DELETERS]),
        (["view", "change", "delete"], ACTIONS),
    ],
)
def test_pages_offer_what_one_may_do(client, ready, permissions, offered):
    client.force_login(user_with(*permissions))
    listed = client.get(LIST).content.decode()
    page = client.get(f"{LIST}{ready.pk}/change/").content.decode()
    assert [name for name in ACTIONS if f'value="{name}"' in listed] == offered
    sensible = ["rebuild_selected", "verify_selected", "transcode_selected", "hold_selected"]
    assert [name for name in ACTIONS if f'value="{name}"' in page] == [name for name in offered if name in sensible]
    assert (f'{ready.pk}/delete/"' in page) is ("delete_selected" in offered)
    # Whoever may change sessions can save their markers.
    assert ('name="_save"' in page) is ("change" in permissions)


@pytest.mark.parametrize(
    ("state", "fields", "offered"),
    [
        ("live", {}, ["close_selected"]),
        ("empty", {"status": "paused"}, ["close_selected"]),
        ("empty", {"status": "completed"}, []),
        ("failed", {"status": "completed", "total_chunks": 3}, ["rebuild_selected", "verify_selected"]),
        ("ready", {"status": "completed", "total_chunks": 3, "delete_requested_at": timezone.now()}, []),
    ],
)
def test_the_page_of_a_session_offers_what_makes_sense(operator, state, fields, offered):
    page = page_of(operator, make_session({"state": state}, **fields))
    assert [name for name in ACTIONS if f'value="{name}"' in page] == offered


def test_a_log_is_read_and_not_written(admin_client, ready):
    act(admin_client, "rebuild_selected", ready)
    key = LogEntry.objects.get().pk
    assert admin_client.post(f"/admin/admin/logentry/{key}/delete/", {"post": "yes"}).status_code == 403
    assert admin_client.post(f"/admin/admin/logentry/{key}/change/", {"object_repr": "x"}).status_code == 403
    history = admin_client.get(f"{LIST}{ready.pk}/history/").content.decode()
    assert "The rebuild of the recording was requested." in history


@pytest.mark.parametrize("path", ["act/", "delete/"])
def test_a_session_that_is_not_there(admin_client, path):
    for key in ("00000000-0000-4000-8000-000000000000", "none"):
        answer = admin_client.post(f"{LIST}{key}/{path}", {"action": "close_selected", "post": "yes"})
        assert answer.status_code == 404


# The page of a session


def page_of(client, session):
    return client.get(f"{LIST}{session.pk}/change/").content.decode()


def test_a_button_acts_and_leads_back(operator):
    session = make_session()
    answer = operator.post(f"{LIST}{session.pk}/act/", {"action": "close_selected"})
    assert answer["Location"] == f"{LIST}{session.pk}/change/"
    assert AudioSession.objects.get(pk=session.pk).status == "completed"


def test_the_page_of_a_ready_session(operator, ready):
    task = rows.enqueue(ready, TaskKind.TRANSCODE, "mp3")
    page, path = page_of(operator, ready), f"/api/audio/sessions/{ready.pk}"
    assert f'<audio controls preload="none" src="{path}/audio">' in page
    assert f'src="{path}/waveform?format=svg"' in page
    assert "ready, 1.500\N{NO-BREAK SPACE}s" in page
    assert "?format=mp3" not in page
    for name in ("audiochunk", "audiosource", "backgroundtask"):
        assert f'href="/admin/audio/{name}/?q={ready.pk}"' in page
    assert f'href="/admin/audio/backgroundtask/{task.pk}/change/">transcode mp3</a>' in page
    BackgroundTask.objects.filter(pk=task.pk).update(state="completed", size_bytes=2048)
    assert f'href="{path}/audio?format=mp3" download>mp3' in page_of(operator, ready)


def test_the_page_of_a_session_whose_recording_failed(operator):
    failure = {"error_code": "undecodable_chunk", "error_detail": "Chunk 3 <b>can't</b> be decoded."}
    session = make_session({"state": "failed", "failed_sequence": 3, **failure}, status="completed")
    page = page_of(operator, session)
    assert "undecodable_chunk: Chunk 3 &lt;b&gt;can&#x27;t&lt;/b&gt; be decoded. (chunk 3)" in page
    assert "<audio" not in page
    assert "The recording failed, and no part of it can be played." in page


def test_what_could_be_made_of_a_failed_recording_can_be_played_and_downloaded(operator):
    session = make_session({"state": "failed", "file_name": "a.wav", "size_bytes": 2048}, status="completed")
    page = page_of(operator, session)
    assert f'href="/api/audio/sessions/{session.pk}/audio?partial=true" download>incomplete' in page
    assert f'<audio controls preload="none" src="/api/audio/sessions/{session.pk}/audio?partial=true">' in page


def test_the_page_of_an_open_session(operator):
    empty, live = make_session(), make_session({"state": "live", "master_bytes": 480, "master_encoding": "s16le"})
    assert "Nothing has been recorded yet." in page_of(operator, empty)
    building = make_session({"state": "building"}, status="completed")
    assert "The recording is being made." in page_of(operator, building)
    assert "<audio" in page_of(operator, live)
