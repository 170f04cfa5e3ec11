"""Create and change projects and their members, for the admin and the REST API alike."""

from collections.abc import Collection, Sequence

from django.db import transaction

from audio.access import audit
from audio.access.identity import ROLE_SCOPES, Identity
from audio.errors import LastManagerError, MemberNotFoundError, NotAllowedError
from audio.models import Membership, Project, Role

LIMITS = ("max_open_sessions", "max_openings_per_minute", "max_bytes_per_day", "max_requests_per_second")
# The audit names a project, and limits protect the others from it, so that its manager must not change them.
STAFF_FIELDS = ("name", *LIMITS)


def save(project: Project, changed: Collection[str], identity: Identity, address: str | None = None) -> None:
    """Save a new or changed project, with an entry in the audit.

    Args:
        project: The project with its new values.
        changed: The names of the fields that have changed.
        identity: Who has changed them.
        address: The IP address of the client.

    Raises:
        NotAllowedError: Only staff may change one of the fields.
    """
    for name in STAFF_FIELDS:
        if name in changed and not identity.is_unlimited:
            raise NotAllowedError(f"Only staff may change {name} of a project.", parameter=name)
    if not changed:
        return
    is_new = project.pk is None
    with transaction.atomic():
        project.save(update_fields=None if is_new else changed)
        action = "project.created" if is_new else "project.changed"
        audit.record(action, identity, project.pk, address=address, fields=list(changed))


def save_members(
    project: Project,
    identity: Identity,
    address: str | None = None,
    *,
    saved: Sequence[Membership] = (),
    removed: Sequence[Membership] = (),
) -> None:
    """Add, change and remove members of a project, with an entry in the audit for each of them.

    Args:
        project: The project.
        identity: Who does it.
        address: The IP address of the client.
        saved: The new members, which are not stored yet, and those whose role has changed.
        removed: The members to remove.

    Raises:
        LastManagerError: The project would lose its last manager.
        MemberNotFoundError: Somebody else has removed one of them meanwhile.
        NotAllowedError: A member would get a scope that the identity does not have.
    """
    for member in saved:
        if not all(identity.may(scope, project.pk) for scope in ROLE_SCOPES[member.role]):
            raise NotAllowedError(f"You cannot give the role {member.role}, because you do not have all of its scopes.")
    with transaction.atomic():
        check_managers(project, identity, saved=saved, removed=removed)
        changes = [("member.changed" if member.pk else "member.added", member) for member in saved]
        changes += [("member.removed", member) for member in removed]
        for action, member in changes:
            name = member.user.get_username()
            audit.record(action, identity, project.pk, address=address, user=name, role=member.role)
        for member in saved:
            _store(member)
        for member in removed:
            member.delete()


def _store(member: Membership) -> None:
    if not member.pk:
        member.save()
    elif not Membership.objects.filter(pk=member.pk).update(role=member.role):
        raise MemberNotFoundError


def check_managers(
    project: Project, identity: Identity, *, saved: Sequence[Membership], removed: Sequence[Membership]
) -> None:
    """Check that a project keeps a manager. Staff manage every project, and may leave one without.

    The row of the project is locked, so that two managers cannot remove each other at once.

    Raises:
        LastManagerError: The project would lose its last manager.
    """
    Project.objects.select_for_update(no_key=True).get(pk=project.pk)
    managers = set(Membership.objects.filter(project=project, role=Role.MANAGER).values_list("pk", flat=True))
    leave = {member.pk for member in [*saved, *removed]}
    stay = (managers - leave) or any(member.role == Role.MANAGER for member in saved)
    if managers and not stay and not identity.is_unlimited:
        raise LastManagerError
