"""Indexes for what managers see in the admin: the events of a project, and its audit by action."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("audio", "0016_scale"),
    ]

    operations = [
        migrations.AddIndex(
            model_name="webhookevent",
            index=models.Index(fields=["project", "-id"], name="event_by_project"),
        ),
        migrations.AddIndex(
            model_name="auditentry",
            index=models.Index(fields=["project", "action", "-at", "-id"], name="audit_by_project_action"),
        ),
    ]
