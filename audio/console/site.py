"""The site of the admin: staff may enter it, and managers of projects."""

from typing import Any

from django.conf import settings
from django.contrib import admin
from django.contrib.auth.views import LogoutView, redirect_to_login
from django.http import HttpRequest, HttpResponse
from django.urls import reverse

from audio.models import Membership


class ProjectAdminSite(admin.AdminSite):
    """An admin whose login is the product's own login page."""

    site_header = site_title = "SercueScribe"
    index_title = "What is stored"
    enable_nav_sidebar = True

    def has_permission(self, request: HttpRequest) -> bool:
        """Whether a person may enter: staff, and managers of a project."""
        return super().has_permission(request) or bool(Membership.objects.managed_by(request.user))

    def login(self, request: HttpRequest, extra_context: dict[str, object] | None = None) -> HttpResponse:
        """Send a person to the login page, which sends them back."""
        return redirect_to_login(request.GET.get("next") or reverse("admin:index"), settings.LOGIN_URL)

    def logout(self, request: HttpRequest, extra_context: dict[str, object] | None = None) -> Any:
        """Log a person out."""
        return LogoutView.as_view()(request)
