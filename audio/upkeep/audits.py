"""The removal of audit entries after AUDIT_DAYS."""

from datetime import timedelta

from django.conf import settings

from audio.models import AuditEntry
from audio.upkeep.sweeps import Action, Sweep

NAME = "audit"
_BATCH = 1000


def delete_old(sweep: Sweep) -> None:
    """Delete the entries that are older than AUDIT_DAYS, a batch in a transaction."""
    old = AuditEntry.objects.filter(at__lt=sweep.now - timedelta(days=settings.AUDIT_DAYS)).order_by("at")
    if sweep.dry_run:
        for key in old.values_list("pk", flat=True).iterator():
            sweep.note(Action.DELETED_AUDIT_ENTRIES, key)
        return
    while not sweep.is_over and (keys := list(old.values_list("pk", flat=True)[:_BATCH])):
        AuditEntry.objects.filter(pk__in=keys).delete()
        for key in keys:
            sweep.note(Action.DELETED_AUDIT_ENTRIES, key)
