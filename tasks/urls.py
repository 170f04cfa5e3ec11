"""The paths of the REST view of background tasks; each works with and without a trailing slash."""

from audio.api.urls import both
from tasks import api

urlpatterns = [
    *both("api/tasks", api.TaskList, "task-list"),
    *both("api/tasks/<str:task_id>", api.TaskDetail, "task-detail"),
]
