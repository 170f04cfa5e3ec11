"""What operators see of the stored state, and what they may do to a session. Nothing is changed by hand."""

from django.contrib import admin

from audio.admin import log, rows, sessions

__all__ = ["log", "rows", "sessions"]

admin.site.site_header = admin.site.site_title = "SercueScribe"
admin.site.index_title = "What is stored"
