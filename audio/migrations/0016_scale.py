"""Indexes for paths that read more the more sessions there were: the tasks of a project, the events of a session."""

import django.db.models.deletion
from django.db import migrations, models

# Tasks of the default project have the right value already.
_PROJECTS_OF_TASKS = """
    UPDATE audio_backgroundtask SET project_id = (
        SELECT project_id FROM audio_audiosession WHERE audio_audiosession.id = audio_backgroundtask.session_id
    )
    WHERE session_id IN (SELECT id FROM audio_audiosession WHERE project_id <> 1)
"""


class Migration(migrations.Migration):
    dependencies = [
        ("audio", "0015_requests_of_people"),
    ]

    operations = [
        migrations.AddField(
            model_name="backgroundtask",
            name="project",
            field=models.ForeignKey(
                db_constraint=False,
                db_default=1,
                db_index=False,
                on_delete=django.db.models.deletion.CASCADE,
                related_name="+",
                to="audio.project",
            ),
        ),
        migrations.RunSQL(_PROJECTS_OF_TASKS, migrations.RunSQL.noop),
        migrations.AddIndex(
            model_name="backgroundtask",
            index=models.Index(fields=["project", "-created_at", "-id"], name="task_by_project"),
        ),
        migrations.AlterField(
            model_name="audiochunk",
            name="source",
            field=models.ForeignKey(
                db_constraint=False,
                db_index=False,
                on_delete=django.db.models.deletion.DO_NOTHING,
                to="audio.audiosource",
            ),
        ),
        migrations.AddIndex(
            model_name="webhookevent",
            index=models.Index(fields=["session_id"], name="event_by_session"),
        ),
    ]
