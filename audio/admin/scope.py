"""The scope of the admin: staff see what Django's permissions allow, and managers see their own projects."""

from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.core.exceptions import BadRequest, ValidationError
from django.db.models import ForeignKey, Model, QuerySet
from django.http import HttpRequest, HttpResponse

from audio.models import Membership, Project

if TYPE_CHECKING:  # the classes themselves take no type parameters
    _ModelAdmin = admin.ModelAdmin[Any]
    _TabularInline = admin.TabularInline[Any, Any]
else:
    _ModelAdmin = admin.ModelAdmin
    _TabularInline = admin.TabularInline


def managed_projects(request: HttpRequest) -> frozenset[int]:
    """Return the ids of the projects whose manager sends the request."""
    return Membership.objects.managed_by(request.user)


def is_staff(request: HttpRequest) -> bool:
    """Whether Django's permissions apply to a person, and not their roles in projects."""
    user: Any = request.user
    return bool(user.is_active and user.is_staff)


def visible_projects(request: HttpRequest) -> QuerySet[Project]:
    """Return the projects that a person may see in the admin."""
    projects = Project.objects.order_by("name")
    return projects if is_staff(request) else projects.filter(pk__in=managed_projects(request))


class ScopedAdmin(_ModelAdmin):
    """A list whose rows belong to projects. Managers see those of their own projects, staff all.

    Django reads every row through `get_queryset`. So a row that a person may not see is not found, whatever the URL is.

    Attributes:
        project_path: The lookup that leads from a row to its project; empty if managers may not see the list at all.
        manager_may: What a manager may do with a row, apart from viewing it.
    """

    project_path: ClassVar[str] = ""
    manager_may: ClassVar[frozenset[str]] = frozenset()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Any]:
        """Return the rows that exist for a person."""
        rows = super().get_queryset(request)
        if is_staff(request):
            return rows
        return self.of_projects(rows, managed_projects(request)) if self.project_path else rows.none()

    def of_projects(self, rows: QuerySet[Any], project_ids: frozenset[int]) -> QuerySet[Any]:
        """Return the rows of some projects."""
        return rows.filter(**{f"{self.project_path}__in": project_ids})

    def manages(self, request: HttpRequest, act: str = "view") -> bool:
        """Whether a person may do something as the manager of a project."""
        may = self.project_path and (act == "view" or act in self.manager_may)
        return bool(may and not is_staff(request) and managed_projects(request))

    def has_module_permission(self, request: HttpRequest) -> bool:
        """Whether the list is on the start page."""
        return self.manages(request) or (is_staff(request) and super().has_module_permission(request))

    def has_view_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whether a person may see rows."""
        return self.manages(request) or (is_staff(request) and super().has_view_permission(request, obj))

    def has_add_permission(self, request: HttpRequest, *args: Any) -> bool:
        """Whether a person may add a row."""
        return self.manages(request, "add") or (is_staff(request) and super().has_add_permission(request, *args))

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whether a person may change a row."""
        return self.manages(request, "change") or (is_staff(request) and super().has_change_permission(request, obj))

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        """Whether a person may delete a row."""
        return self.manages(request, "delete") or (is_staff(request) and super().has_delete_permission(request, obj))

    def formfield_for_foreignkey(self, db_field: "ForeignKey[Any, Any]", request: HttpRequest, **kwargs: Any) -> Any:
        """Return the field of a form, which offers only projects that exist for the person."""
        if db_field.related_model is Project:
            kwargs["queryset"] = visible_projects(request)
        return super().formfield_for_foreignkey(db_field, request, **kwargs)

    def response_action(
        self, request: HttpRequest, queryset: QuerySet[Any], *args: Any, **options: Any
    ) -> HttpResponse | None:
        """Run an action on the selected rows.

        Raises:
            BadRequest: What is selected can be no row. Django would fail with it.
        """
        try:
            for text in request.POST.getlist(ACTION_CHECKBOX_NAME):
                self.opts.pk.to_python(text)
        except ValidationError as error:
            raise BadRequest("A selected row can not exist.") from error
        return super().response_action(request, queryset, *args, **options)


class ScopedInline(_TabularInline):
    """Rows on the page of a project. Users who may change the project may change them."""

    def _may(self, request: HttpRequest, act: str) -> bool:
        needed = f"{self.opts.app_label}.{act}_{self.opts.model_name}"
        return request.user.has_perm(needed) if is_staff(request) else bool(managed_projects(request))

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a person may see the rows."""
        return self._may(request, "view")

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a person may add a row."""
        return self._may(request, "add")

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a person may change a row."""
        return self._may(request, "change")

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether a person may delete a row."""
        return self._may(request, "delete")


class ProjectFilter(admin.SimpleListFilter):
    """A filter by project. Its choices are the projects that the person may see."""

    title = "project"
    parameter_name = "project"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the names of the projects. A list of one project needs no filter."""
        names = list(visible_projects(request).values_list("name", flat=True))
        return [(name, name) for name in names] if len(names) > 1 else []

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Return the rows of the project."""
        if self.value() is None:
            return queryset
        project = visible_projects(request).filter(name=self.value()).first()
        return queryset.filter(project=project) if project else queryset.none()
