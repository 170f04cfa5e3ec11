"""What errors of a real database mean, and the reserve."""

import pytest
from django.db import DatabaseError, connection

from audio import database, versions
from audio.errors import DatabaseUnavailableError, StorageFullError

pytestmark = [pytest.mark.database, pytest.mark.django_db(transaction=True)]

FILL = {
    "sqlite": ["PRAGMA max_page_count = 1", "CREATE TABLE filler AS SELECT zeroblob(100000000)"],
    "postgresql": ["DO $$ BEGIN RAISE EXCEPTION 'no space left' USING ERRCODE = 'disk_full'; END $$"],
}
REFUSE = {
    "sqlite": ["PRAGMA query_only = on", "CREATE TABLE rejected (id int)"],
    "postgresql": ["SET default_transaction_read_only = on", "CREATE TABLE rejected (id int)"],
}


def error_of(statements: list[str]) -> DatabaseError:
    """Return the error of the last of the statements, on a connection that is not used again."""
    try:
        with connection.cursor() as cursor, pytest.raises(DatabaseError) as caught:
            for statement in statements:
                cursor.execute(statement)
        return caught.value
    finally:
        connection.close()


def test_a_full_disk_is_full_storage():
    error = error_of(FILL[connection.vendor])
    assert isinstance(error, database.AWAY)
    assert isinstance(database.rejection(error), StorageFullError)


def test_a_database_that_takes_no_writes_is_away():
    error = error_of(REFUSE[connection.vendor])
    assert isinstance(error, database.AWAY)
    assert isinstance(database.rejection(error), DatabaseUnavailableError)


def test_a_fault_of_ours_is_neither():
    error = error_of(["SELECT nonsense FROM nowhere"])
    assert not database.is_full(error)
    assert connection.vendor == "sqlite" or not isinstance(error, database.AWAY)


def test_sqlite_has_a_reserve_that_can_be_taken_once(settings, tmp_path):
    if connection.vendor == "sqlite":
        settings.SQLITE_FILE = tmp_path / "db.sqlite3"
    else:
        database.hold_reserve()
        assert not database.release_reserve()
        assert list(tmp_path.iterdir()) == []
        return
    assert not database.release_reserve()
    for _ in range(2):
        database.hold_reserve()
        assert (tmp_path / "reserve").stat().st_blocks * 512 >= database.RESERVE_BYTES
    assert [path.name for path in tmp_path.iterdir()] == ["reserve"]
    assert database.release_reserve()
    assert list(tmp_path.iterdir()) == []


def test_versions_are_told():
    connection.ensure_connection()
    name, version = versions.known()["database"].split()
    assert name.lower() == connection.vendor.lower()
    assert version[0].isdigit()
    assert "." in version
