"""The paths of the pages for people."""

from django.templatetags.static import static
from django.urls import path
from django.views.generic import RedirectView

from audio.console import views

# Browsers request it for pages that name no icon.
_icon = RedirectView.as_view(url=static("console/icon.svg"))

urlpatterns = [path("", views.home, name="home"), path("favicon.ico", _icon)]
