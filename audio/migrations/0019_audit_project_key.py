"""Audit entries have the key of their project. Old entries get it if the project of that name existed then."""

from typing import Any

from django.db import migrations, models


def _find_projects(apps: Any, _: Any) -> None:
    entries = apps.get_model("audio", "AuditEntry").objects
    for key, name, created_at in apps.get_model("audio", "Project").objects.values_list("pk", "name", "created_at"):
        entries.filter(project=name, at__gte=created_at).update(project_key=key)


class Migration(migrations.Migration):
    dependencies = [
        ("audio", "0018_event_labels"),
    ]

    operations = [
        migrations.AddField(
            model_name="auditentry",
            name="project_key",
            field=models.BigIntegerField(blank=True, null=True),
        ),
        migrations.RunPython(_find_projects, migrations.RunPython.noop),
    ]
