"""The admin of projects: their members, API keys and session tokens, and the audit.

Staff do what Django's permissions allow. Managers do it for their own projects.
"""

from abc import abstractmethod
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import admin, messages
from django.contrib.auth import get_user_model
from django.db.models import Model, QuerySet
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone

from audio import access
from audio.access import issue, projects
from audio.admin.lists import ReadOnlyAdmin, StoredStateAdmin, searched_session, session_link
from audio.admin.scope import ProjectFilter, ScopedAdmin, ScopedInline, is_staff, visible_projects
from audio.errors import LastManagerError
from audio.models import DEFAULT_PROJECT_ID, ApiKey, AuditEntry, Membership, OpenIdAccount, Project, Scope, SessionToken

SEARCH_LIMIT = 100_000
NOTHING = "-"
ACTIONS = [
    *("session.created", "session.opened", "session.closed", "session.deleted"),
    *("session.changed", "legal_hold.set", "legal_hold.lifted", "marker.deleted"),
    *("recording.downloaded", "recording.rebuilt", "recording.verified", "recording.transcoded", "chunk.downloaded"),
    *("key.created", "key.revoked", "token.created", "token.revoked"),
    *("project.created", "project.changed", "member.added", "member.changed", "member.removed"),
    *("webhook.created", "webhook.changed", "webhook.rotated", "webhook.tested", "webhook.replayed", "webhook.deleted"),
    *("login.succeeded", "login.failed"),
]


def audit(request: HttpRequest, action: str, project_id: int, **details: Any) -> None:
    """Store an action in the admin in the audit."""
    identity = access.by_user(request.user)
    access.audit.record(action, identity, project_id, address=request.META.get("REMOTE_ADDR"), **details)


# Projects and their members


class UserNameField(forms.ModelChoiceField):  # type: ignore[type-arg]  # the class itself takes no type parameters
    """A person, named by the exact user name. A list of people would show a manager the members of other projects."""

    widget = forms.TextInput(
        attrs={"aria-label": "user name", "autocomplete": "off", "autocapitalize": "none", "spellcheck": "false"}
    )
    default_error_messages = {"invalid_choice": "There is no active account with this user name."}

    def __init__(self) -> None:
        active = get_user_model().objects.filter(is_active=True)
        super().__init__(active, to_field_name="username", label="user name")

    def prepare_value(self, value: Any) -> Any:
        """Return the user name for the key of a user."""
        if isinstance(value, int):
            return get_user_model().objects.filter(pk=value).values_list("username", flat=True).first()
        return super().prepare_value(value)


class MembershipForm(forms.ModelForm):  # type: ignore[type-arg]
    """A member of a project. The user of an existing member cannot be changed, and may be inactive."""

    user = UserNameField()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.instance.pk:
            user: Any = self.fields["user"]
            user.queryset = get_user_model().objects.filter(pk=self.instance.user_id)
            user.disabled = True
            self.initial["user"] = self.instance.user

    class Meta:
        model = Membership
        fields = ["user", "role"]
        widgets = {"role": forms.Select(attrs={"aria-label": "role"})}


class MembershipFormSet(forms.BaseInlineFormSet):  # type: ignore[type-arg]
    """The members of a project, as they are to be."""

    identity: access.Identity

    def clean(self) -> None:
        """Check that the project keeps a manager."""
        super().clean()
        if not self.instance.pk or any(self.errors):
            return
        removed = [form.instance for form in self.deleted_forms if form.instance.pk]
        saved = [form.instance for form in self.forms if form.has_changed() and form not in self.deleted_forms]
        try:
            projects.check_managers(self.instance, self.identity, saved=saved, removed=removed)
        except LastManagerError as error:
            raise forms.ValidationError(error.detail) from error


class MembershipInline(ScopedInline):
    """The members on the page of a project."""

    model = Membership
    form = MembershipForm
    formset = MembershipFormSet
    extra = 1

    def get_formset(self, request: HttpRequest, obj: Any = None, **kwargs: Any) -> Any:
        """Return the class of the forms, which gets the identity of the user."""
        formset: Any = super().get_formset(request, obj, **kwargs)
        formset.identity = access.by_user(request.user)
        return formset


@admin.register(Project)
class ProjectAdmin(ScopedAdmin):
    """Projects, with their limits and their members."""

    project_path = "pk"
    manager_may = frozenset(["change"])
    list_display = ["name", "retention_days", "max_open_sessions", "max_openings_per_minute", "created_at"]
    ordering = ["name"]
    search_fields = ["name"]
    fields = ["name", "retention_days", *projects.LIMITS]
    inlines = [MembershipInline]
    actions = None

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        """Return the fields that only staff may change."""
        return [] if is_staff(request) else list(projects.STAFF_FIELDS)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a person may delete a project: staff may, as long as it has no sessions, but not the default one."""
        is_needed = obj is not None and (obj.pk == DEFAULT_PROJECT_ID or obj.sessions.exists())
        return super().has_delete_permission(request, obj) and not is_needed

    def save_model(self, request: HttpRequest, obj: Project, form: Any, change: bool) -> None:
        """Save a project, with an entry in the audit."""
        projects.save(obj, form.changed_data, access.by_user(request.user), request.META.get("REMOTE_ADDR"))

    def save_formset(self, request: HttpRequest, form: Any, formset: Any, change: bool) -> None:
        """Save the members, with an entry in the audit for each change."""
        projects.save_members(
            form.instance,
            access.by_user(request.user),
            request.META.get("REMOTE_ADDR"),
            saved=formset.save(commit=False),
            removed=formset.deleted_objects,
        )


@admin.register(OpenIdAccount)
class OpenIdAccountAdmin(ScopedAdmin):
    """Accounts at OpenID providers. Staff can connect an account with an existing user."""

    list_display = ["user", "issuer", "subject"]
    list_select_related = ["user"]
    raw_id_fields = ["user"]
    ordering = ["-pk"]


# Secrets


class SecretAdmin(ScopedAdmin):
    """A list of API keys or session tokens. Their digests are never shown."""

    show_full_result_count = False
    manager_may = frozenset(["revoke"])
    actions = ["revoke_selected"]

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whether a person may change a secret: never. It can be revoked."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whether a person may delete a secret: never. A revoked one stays, so that the audit can be understood."""
        return False

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        """Whether a person may revoke secrets. For staff it is Django's permission to change them."""
        needed = f"{self.opts.app_label}.change_{self.opts.model_name}"
        return self.manages(request, "revoke") or (is_staff(request) and request.user.has_perm(needed))

    @admin.action(description="Revoke", permissions=["revoke"])
    def revoke_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> None:
        """Revoke the secrets, and end their connections."""
        valid = list(queryset.filter(revoked_at__isnull=True))
        for secret in valid:
            self.revoke(request, secret)
        self.message_user(request, f"{len(valid)} revoked.", messages.SUCCESS)

    @abstractmethod
    def revoke(self, request: HttpRequest, secret: Any) -> None:
        """Revoke one secret."""

    @admin.display(description="state")
    def state(self, secret: Any) -> str:
        """Return whether the secret can be used."""
        if secret.revoked_at:
            return "revoked"
        return "expired" if secret.expires_at and secret.expires_at <= timezone.now() else "valid"


class ApiKeyForm(forms.ModelForm):  # type: ignore[type-arg]
    """A new API key."""

    scopes = forms.MultipleChoiceField(
        choices=[
            (Scope.READ, "read: list, listen and download"),
            (Scope.RECORD, "record: create sessions, send audio and close them"),
            (Scope.MANAGE, "manage: delete sessions; change keys and members"),
        ],
        widget=forms.CheckboxSelectMultiple,
    )

    # The admin's own widget has two fields without labels.
    expires_at = forms.DateTimeField(
        label="expires at (UTC)", required=False, widget=forms.DateTimeInput(attrs={"type": "datetime-local"})
    )

    class Meta:
        model = ApiKey
        fields = ["project", "name", "scopes", "expires_at"]

    def clean_expires_at(self) -> Any:
        """Check that the key does not expire at once."""
        expires_at = self.cleaned_data["expires_at"]
        if expires_at is not None and expires_at <= timezone.now():
            raise forms.ValidationError("Choose a time in the future.")
        return expires_at


@admin.register(ApiKey)
class ApiKeyAdmin(SecretAdmin):
    """API keys. The secret of a new one is shown once."""

    project_path = "project"
    manager_may = frozenset(["add", "revoke"])
    form = ApiKeyForm
    list_display = ["prefix", "name", "project", "scope_names", "state", "expires_at", "last_used_at", "created_by"]
    list_filter = [ProjectFilter]
    list_select_related = ["project", "created_by"]
    search_fields = ["prefix", "name"]
    ordering = ["-created_at"]

    def get_fields(self, request: HttpRequest, obj: Model | None = None) -> list[Any]:
        """Return the fields of a new key, or those of one that exists."""
        asked = ["project", "name", "scopes", "expires_at"]
        if obj is None:
            return asked
        shown = ["prefix", "project", "name", "scope_names", "state", "expires_at", "revoked_at", "last_used_at"]
        return [*shown, "created_by", "created_at"]

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        """Return the fields that are only shown."""
        return self.get_fields(request, obj) if obj else []

    def save_model(self, request: HttpRequest, obj: Any, form: Any, change: bool) -> None:
        """Make the key. The object keeps its secret until the response is sent."""
        made, secret = issue.key(
            obj.project,
            obj.name,
            form.cleaned_data["scopes"],
            access.by_user(request.user),
            obj.expires_at,
            request.META.get("REMOTE_ADDR"),
        )
        obj.pk, obj.prefix, obj.secret = made.pk, made.prefix, secret

    def response_add(self, request: HttpRequest, obj: Any, post_url_continue: str | None = None) -> HttpResponse:
        """Show the secret, which is stored nowhere. A redirect would have to carry it in a cookie."""
        context = {**self.admin_site.each_context(request), "title": "New API key", "opts": self.opts, "key": obj}
        return TemplateResponse(request, "admin/audio/apikey/made.html", context)

    def revoke(self, request: HttpRequest, secret: ApiKey) -> None:
        """Revoke a key with its tokens."""
        issue.revoke_key(secret.pk, access.by_user(request.user), request.META.get("REMOTE_ADDR"))

    @admin.display(description="scopes")
    def scope_names(self, key: ApiKey) -> str:
        """Return the scopes."""
        return ", ".join(key.scopes)


@admin.register(SessionToken)
class SessionTokenAdmin(SecretAdmin, StoredStateAdmin):
    """The tokens of sessions, newest first."""

    list_display = ["prefix", "session_link", "purpose", "state", "created_at", "expires_at"]
    fields = ["prefix", "session_link", "purpose", "state", "created_at", "expires_at", "revoked_at", "api_key"]
    readonly_fields = ["session_link", "state"]
    ordering = ["-created_at", "-pk"]
    sortable_by = ()

    def revoke(self, request: HttpRequest, secret: SessionToken) -> None:
        """Revoke a token."""
        identity = access.by_user(request.user)
        issue.revoke_token(secret.session, secret.pk, identity, request.META.get("REMOTE_ADDR"))


# The audit


class ProjectNameFilter(ProjectFilter):
    """A filter by the name of a project."""

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the entries of the project."""
        return queryset if self.value() is None else queryset.filter(project=self.value())


class ActionFilter(admin.SimpleListFilter):
    """A filter by action. Its choices are fixed, because a query for them would read the whole table."""

    title = "action"
    parameter_name = "action"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the actions."""
        return [(action, action) for action in ACTIONS]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the entries of the action."""
        return queryset if self.value() is None else queryset.filter(action=self.value())


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    """The audit: who did what, newest first."""

    project_path = "project"
    list_display = ["at", "actor", "action", "project", "audited_session", "address", "details"]
    list_filter = [ProjectNameFilter, ActionFilter, "at"]
    fields = ["at", "actor", "action", "project", "audited_session", "address", "details"]
    readonly_fields = ["audited_session"]
    search_fields = ["pk"]
    search_help_text = "Search for a session id, or for a part of an actor."
    sortable_by = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the entries that a person may see: those of their projects, under the names that these have now."""
        entries = AuditEntry.objects.all()
        if is_staff(request):
            return entries
        # With a subquery, SQLite would not use the index by project and action.
        projects = dict(visible_projects(request).values_list("pk", "name"))
        return entries.filter(project__in=list(projects.values()), project_key__in=list(projects))

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[Any], search_term: str
    ) -> tuple[QuerySet[Any], bool]:
        """Find the entries of a session; or of an actor, among the newest SEARCH_LIMIT ones."""
        term = search_term.strip()
        if not term:
            return queryset, False
        session_id: UUID | None = searched_session(term)
        if session_id:
            return queryset.filter(session_id=session_id), False
        moments = self.get_queryset(request).order_by("-at", "-id").values_list("at", flat=True)
        beginning = moments[SEARCH_LIMIT : SEARCH_LIMIT + 1].first()
        among = queryset.filter(at__gt=beginning) if beginning else queryset
        return among.filter(actor__icontains=term), False

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Whether a condition in the URL is allowed: the filters of this list may add conditions of their own."""
        own = (ProjectNameFilter.parameter_name, ActionFilter.parameter_name)
        return lookup in own or super().lookup_allowed(lookup, value, request)

    @admin.display(description="session")
    def audited_session(self, entry: AuditEntry) -> str:
        """Return a link to the session, which may be deleted."""
        return session_link(entry.session_id) if entry.session_id else NOTHING
