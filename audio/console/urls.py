"""The paths of the pages for people."""

from django.urls import path

from audio.console import views

urlpatterns = [path("", views.home, name="home")]
