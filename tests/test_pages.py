"""Tables page by page."""

import uuid

import pytest

from audio.models import JournalFile
from audio.pages import in_pages
from tests.plans import captured

pytestmark = [pytest.mark.database, pytest.mark.django_db]


def make(*numbers: int) -> None:
    JournalFile.objects.bulk_create(JournalFile(name=f"journal-{n}", process_id=uuid.uuid4()) for n in numbers)


def test_every_row_comes_once_in_the_order_of_its_key_and_with_its_columns():
    make(5, 3, 1, 4, 2)
    pages = list(in_pages(JournalFile.objects.order_by("-pk"), "name", "removed_at", size=2))
    assert [len(page) for page in pages] == [2, 2, 1]
    assert [row for page in pages for row in page] == [(f"journal-{n}", None) for n in range(1, 6)]
    assert list(in_pages(JournalFile.objects.none(), "name")) == []


def test_rows_may_be_changed_deleted_and_added_on_the_way():
    make(1, 2, 3, 5)
    seen = []
    for page in in_pages(JournalFile.objects.all(), "name", size=2):
        seen += [name for (name,) in page]
        JournalFile.objects.filter(name__in=["journal-1", "journal-3"]).delete()
        JournalFile.objects.get_or_create(name="journal-4", defaults={"process_id": uuid.uuid4()})
    assert seen == ["journal-1", "journal-2", "journal-4", "journal-5"]


def test_no_page_reads_the_rows_before_it():
    make(*range(10))
    with captured() as queries:
        list(in_pages(JournalFile.objects.all(), "name", size=2))
    assert "OFFSET" not in "".join(query["sql"] for query in queries.captured_queries)
    assert len(queries.captured_queries) == 6
