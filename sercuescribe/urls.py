"""The URLs of the console, the REST API and the admin."""

from django.contrib import admin
from django.urls import include, path
from django.views.generic import RedirectView

admin.autodiscover()

urlpatterns = [
    path("", include("audio.console.urls")),
    path("", include("audio.api.urls")),
    path("admin", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
]

handler400 = "audio.api.errors.bad_request"
handler404 = "audio.api.errors.not_found"
handler500 = "audio.api.errors.server_error"
