"""The admin: operators see what is stored and act on sessions. No row can be edited by hand."""

from django.contrib import admin

from audio.admin import log, rows, sessions

__all__ = ["log", "rows", "sessions"]

admin.site.site_header = admin.site.site_title = "SercueScribe"
admin.site.index_title = "What is stored"
