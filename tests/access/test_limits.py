"""The limit of requests in a second, for programs and for people."""

from typing import Any

import pytest

from audio.models import Project, Role
from tests.access.people import Caller, person, with_key

pytestmark = [pytest.mark.database, pytest.mark.django_db]
# Within that many requests two are in the same second, however slow the machine is.
MANY = 100


@pytest.fixture(autouse=True)
def _asks(settings: Any) -> None:
    settings.REQUIRE_AUTH = True


def limited(name: str, limit: int | None) -> Project:
    return Project.objects.create(name=name, max_requests_per_second=limit)


def rejection(caller: Caller) -> Any:
    """The first response that is no success; None if there is none."""
    answers = (caller.call("GET", "/api/projects") for _ in range(MANY))
    return next((answer for answer in answers if answer.status_code != 200), None)


def test_a_key_and_a_person_who_ask_too_often_are_told_to_wait(db):
    project = limited("clinic", 1)
    for caller in (with_key("read", project=project), person("ana", Role.VIEWER, project)):
        answer = rejection(caller)
        assert (answer.status_code, answer.json()["code"]) == (429, "limit_reached")
        assert (answer.json()["limited"], answer["Retry-After"]) == ("max_requests_per_second", "1")


def test_the_lowest_limit_of_several_projects_counts(db):
    both = person("ana", Role.VIEWER, limited("one", 10_000))
    assert rejection(both) is None
    limited("two", 1).memberships.create(user_id=both.client.session["_auth_user_id"], role=Role.VIEWER)
    assert rejection(both).json()["limit"] == 1


def test_where_there_is_no_limit_and_for_staff_nobody_waits(db):
    project = limited("clinic", None)
    assert rejection(person("ana", Role.VIEWER, project)) is None
    staff = person("staff", is_staff=True)
    limited("strict", 1).memberships.create(user_id=staff.client.session["_auth_user_id"], role=Role.VIEWER)
    assert rejection(staff) is None
