"""Events have labels as long as those of sessions. SQLite knows no lengths, so that its table needs no new copy."""

from typing import Any

from django.db import migrations, models
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def _widen(apps: Any, editor: BaseDatabaseSchemaEditor) -> None:
    if editor.connection.vendor == "postgresql":
        editor.execute("ALTER TABLE audio_webhookevent ALTER COLUMN user_id TYPE varchar(255)")


class Migration(migrations.Migration):
    dependencies = [
        ("audio", "0017_lists_of_managers"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            database_operations=[migrations.RunPython(_widen, migrations.RunPython.noop)],
            state_operations=[
                migrations.AlterField(
                    model_name="webhookevent",
                    name="user_id",
                    field=models.CharField(blank=True, max_length=255, null=True),
                ),
            ],
        ),
    ]
