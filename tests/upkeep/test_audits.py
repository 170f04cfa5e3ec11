"""Audit entries are kept for AUDIT_DAYS."""

from datetime import timedelta

import pytest
from django.utils import timezone

from audio import upkeep
from audio.models import AuditEntry

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.database]


def entry(days: float) -> AuditEntry:
    return AuditEntry.objects.create(at=timezone.now() - timedelta(days=days), actor="key abc", action="session.opened")


def test_old_entries_are_deleted_and_others_are_kept(settings):
    settings.AUDIT_DAYS = 30
    old, young = entry(days=31), entry(days=29)
    assert upkeep.sweep_all(dry_run=True).swept().deleted_audit_entries == 1
    assert AuditEntry.objects.filter(pk=old.pk).exists()
    assert upkeep.sweep_all().swept().deleted_audit_entries == 1
    assert list(AuditEntry.objects.all()) == [young]
