"""Projects, the people and programs that may use them, and the audit of their actions."""

import uuid
from typing import Any

from django.conf import settings
from django.core.validators import MinValueValidator, RegexValidator
from django.db import models
from django.utils import timezone

# The first migration of projects creates it with this key.
DEFAULT_PROJECT_ID = 1
# The same for a foreign key: the stubs of Django do not know that a key can be its default.
DEFAULT_PROJECT: Any = DEFAULT_PROJECT_ID
DEFAULT_PROJECT_NAME = "default"
PROJECT_NAME, PROJECT_NAME_LENGTH = r"^[a-z0-9][a-z0-9-]*\Z", 50
PROJECT_NAME_HELP = "Use lower-case letters, digits and hyphens."
NAME_MAX_LENGTH = 100
_SECRET_PREFIX_LENGTH = 12
_MANAGED = "_managed_projects"


class Scope(models.TextChoices):
    """The scopes: permissions of a program or a person in a project."""

    READ = "read"  # list, show, listen and download
    RECORD = "record"  # create sessions, send audio, close them
    MANAGE = "manage"  # delete sessions, change keys, members, webhooks and limits


class Role(models.TextChoices):
    """The roles of people in a project. Each role includes the one before it."""

    VIEWER = "viewer"
    RECORDER = "recorder"
    MANAGER = "manager"


class TokenPurpose(models.TextChoices):
    """The purposes of session tokens."""

    RECORD = "record"
    LISTEN = "listen"


class Project(models.Model):
    """The owner of sessions, API keys, limits and a retention. Projects see nothing of each other.

    A limit that is null does not apply.
    """

    name = models.CharField(
        max_length=PROJECT_NAME_LENGTH,
        unique=True,
        validators=[RegexValidator(PROJECT_NAME, PROJECT_NAME_HELP)],
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    retention_days = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Days until a closed session is deleted. Empty: RETENTION_DAYS. 0: never.",
    )
    max_open_sessions = models.PositiveIntegerField(null=True, blank=True, validators=[MinValueValidator(1)])
    max_openings_per_minute = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Sessions that may be created in a minute.",
    )
    max_bytes_per_day = models.PositiveBigIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="Bytes that the sessions of a day (UTC) may have.",
    )
    max_requests_per_second = models.PositiveIntegerField(
        null=True,
        blank=True,
        validators=[MinValueValidator(1)],
        help_text="HTTP requests and new connections of each API key, token and person.",
    )

    def __str__(self) -> str:
        return self.name


class MembershipQuerySet(models.QuerySet["Membership"]):
    """The roles of people in projects."""

    def managed_by(self, user: Any) -> frozenset[int]:
        """Return the ids of the projects of which a user is a manager. The user keeps the answer, for one request."""
        if not hasattr(user, _MANAGED):
            is_known = user.is_authenticated and user.is_active
            found = self.filter(user=user.pk, role=Role.MANAGER).values_list("project_id", flat=True)
            setattr(user, _MANAGED, frozenset(found if is_known else ()))
        managed: frozenset[int] = getattr(user, _MANAGED)
        return managed


class Membership(models.Model):
    """The role of a person in a project."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="memberships")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="memberships")
    role = models.CharField(max_length=8, choices=Role.choices, default=Role.VIEWER)

    objects = MembershipQuerySet.as_manager()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["project", "user"], name="membership_project_user")]

    def __str__(self) -> str:
        return f"{self.user} is {self.role} of {self.project}"


class OpenIdAccount(models.Model):
    """The account of a person at an OpenID provider. It identifies the person at the next login."""

    user = models.OneToOneField(settings.AUTH_USER_MODEL, models.CASCADE, related_name="openid_account")
    issuer = models.CharField(max_length=500)
    # A provider never changes it, and never gives it to somebody else.
    subject = models.CharField(max_length=255)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["issuer", "subject"], name="openid_issuer_subject")]
        verbose_name = "OpenID account"

    def __str__(self) -> str:
        return f"{self.subject} at {self.issuer}"


class Secret(models.Model):
    """The base of API keys and session tokens. The secret is shown once, and only its SHA-256 is stored.

    It is a random number of 256 bits, so a slow hash for passwords would add nothing. `prefix` is its visible
    beginning. Rows are found by it, and lists and logs show it.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    prefix = models.CharField(max_length=_SECRET_PREFIX_LENGTH, unique=True, editable=False)
    digest = models.CharField(max_length=64, editable=False)
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(null=True, blank=True)
    revoked_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        abstract = True

    def __str__(self) -> str:
        return self.prefix


class ApiKey(Secret):
    """The key of a program. It belongs to one project."""

    project = models.ForeignKey(Project, models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=NAME_MAX_LENGTH, help_text="Which program has the key.")
    scopes = models.JSONField(default=list, help_text="A list of read, record and manage.")
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.SET_NULL, null=True, blank=True, editable=False, related_name="+"
    )
    # Updated at most once in a few minutes.
    last_used_at = models.DateTimeField(null=True, blank=True, editable=False)

    class Meta:
        ordering = ["-created_at"]
        verbose_name = "API key"


class SessionToken(Secret):
    """The token of a browser or a device. It is valid for one session."""

    session = models.ForeignKey("AudioSession", models.CASCADE, related_name="tokens")
    purpose = models.CharField(max_length=6, choices=TokenPurpose.choices, default=TokenPurpose.RECORD)
    # The key that made it. A token does not outlive its key.
    api_key = models.ForeignKey(ApiKey, models.CASCADE, null=True, blank=True, editable=False, related_name="tokens")

    class Meta:
        ordering = ["-created_at", "-id"]
        indexes = [models.Index(fields=["-created_at", "-id"], name="token_newest")]


class AuditEntry(models.Model):
    """An entry of the audit. It refers to no other row, so that it outlives sessions, keys and people."""

    at = models.DateTimeField(default=timezone.now, db_index=True)
    # Empty for what belongs to no project, such as a failed login.
    project = models.CharField(max_length=50, blank=True)
    # Another project may get the name later, and its managers must not see this entry.
    project_key = models.BigIntegerField(null=True, blank=True)
    actor = models.CharField(max_length=200, help_text="The person, API key or token.")
    action = models.CharField(max_length=40)
    session_id = models.UUIDField(null=True, blank=True)
    address = models.GenericIPAddressField(null=True, blank=True)
    details = models.JSONField(default=dict, blank=True)

    class Meta:
        ordering = ["-at", "-id"]
        indexes = [
            models.Index(fields=["-at", "-id"], name="audit_newest"),
            models.Index(fields=["project", "-at", "-id"], name="audit_by_project"),
            models.Index(fields=["action", "-at", "-id"], name="audit_by_action"),
            models.Index(fields=["project", "action", "-at", "-id"], name="audit_by_project_action"),
            models.Index(fields=["session_id", "-at", "-id"], name="audit_by_session"),
        ]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.actor} {self.action}"
