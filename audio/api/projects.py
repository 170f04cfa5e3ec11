"""The REST API of projects and their members. The rules are those of the admin (`audio.access.projects`)."""

from typing import Any

from django.contrib.auth import get_user_model
from django.db import IntegrityError
from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field, extend_schema_view
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.reverse import reverse

from audio import access
from audio.access.projects import save, save_members
from audio.api import described
from audio.api.access import ANY, MANAGE, STAFF, address_of
from audio.api.paging import MemberPages
from audio.api.serializers import ClosedSerializer, RetentionField
from audio.api.views import CheckedView
from audio.errors import InvalidParameterError, MemberNotFoundError, ProjectNotFoundError
from audio.models import Membership, Project, Role, Scope
from audio.models.access import PROJECT_NAME, PROJECT_NAME_HELP, PROJECT_NAME_LENGTH

_INTEGER_MAX = 2**31 - 1
_BIG_INTEGER_MAX = 2**63 - 1
_ID_DIGITS = 9
_USER_NAME_LENGTH = 150
_FIELDS = (
    *("name", "retention_days", "max_open_sessions", "max_openings_per_minute"),
    *("max_bytes_per_day", "max_requests_per_second"),
)


class ProjectSerializer(serializers.ModelSerializer[Project]):
    """A project, and the scopes of the caller in it."""

    scopes = serializers.SerializerMethodField()

    class Meta:
        model = Project
        fields = ["id", "name", "scopes", *_FIELDS[1:]]
        read_only_fields = fields

    @extend_schema_field(serializers.ListField(child=serializers.ChoiceField(Scope.choices)))
    def get_scopes(self, project: Project) -> list[str]:
        """Return the scopes of the caller in the project."""
        identity: access.Identity = self.context["view"].identity
        return [scope for scope in Scope.values if identity.may(scope, project.pk)]


def _limit(help_text: str, most: int = _INTEGER_MAX) -> serializers.IntegerField:
    return serializers.IntegerField(
        required=False, allow_null=True, min_value=1, max_value=most, help_text=f"{help_text} Null: no limit."
    )


def _name(**options: Any) -> serializers.RegexField:
    return serializers.RegexField(
        PROJECT_NAME, max_length=PROJECT_NAME_LENGTH, error_messages={"invalid": PROJECT_NAME_HELP}, **options
    )


class NewProjectSettingsSerializer(ClosedSerializer):
    """The changes to a project. Absent fields do not change. Only staff may change the name and the limits."""

    name = _name(required=False)
    retention_days = RetentionField(
        required=False,
        allow_null=True,
        help_text="Days until a closed session is deleted. Null: those of the server. 0: never.",
    )
    max_open_sessions = _limit("Sessions that may be open at once.")
    max_openings_per_minute = _limit("Sessions that may be created in a minute.")
    max_bytes_per_day = _limit("Bytes that the sessions of a day (UTC) may have.", _BIG_INTEGER_MAX)
    max_requests_per_second = _limit("HTTP requests and new connections of each API key, token and person.")


class NewProjectSerializer(NewProjectSettingsSerializer):
    """A new project."""

    name = _name()


class ProjectView(CheckedView):
    """A view of the project whose id is in the path."""

    def project(self, scope: str) -> Project:
        """Return the project.

        Raises:
            NotAllowedError: The caller sees it, and does not have the scope.
            ProjectNotFoundError: There is no such project, or not for the caller.
        """
        text = self.kwargs["project_id"]
        found = access.projects_of(self.identity).filter(pk=_number(text)).first()
        if found is None:
            raise ProjectNotFoundError(received=text[:64])
        if scope:
            self.identity.require(scope, found.pk)
        return found

    def saved(self, project: Project, wanted: dict[str, Any]) -> dict[str, Any]:
        """Save the wanted values of a project, and return its JSON."""
        changed = [name for name, value in wanted.items() if project.pk is None or getattr(project, name) != value]
        for name in changed:
            setattr(project, name, wanted[name])
        try:
            save(project, changed, self.identity, address_of(self.request))
        except IntegrityError as error:
            raise InvalidParameterError("Another project has this name.", parameter="name") from error
        return dict(ProjectSerializer(project, context={"view": self}).data)


def _number(text: str) -> int:
    """Return the id in a path; 0, which no row has, if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _ID_DIGITS else 0


@extend_schema_view(
    get=extend_schema(
        summary="List your projects",
        tags=["access"],
        responses={200: ProjectSerializer(many=True), **described.answers(503)},
    ),
    post=extend_schema(
        summary="Create a project",
        tags=["access"],
        request=NewProjectSerializer,
        responses={201: ProjectSerializer, **described.answers(400, 413, 415, 503)},
    ),
)
class ProjectList(ProjectView, generics.ListAPIView[Project]):
    """The projects that the caller may see. Staff can create projects."""

    scopes = {"GET": ANY, "POST": STAFF}
    serializer_class = ProjectSerializer
    pagination_class = None
    filter_backends = []
    queryset = Project.objects.order_by("name")

    def get_queryset(self) -> QuerySet[Project]:
        """Return the projects of the caller."""
        return access.projects_of(self.identity).order_by("name")

    def post(self, request: Request) -> Response:
        """Create a project. This is for staff."""
        requested = NewProjectSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        project = Project()
        shown = self.saved(project, requested.validated_data)
        location = reverse("project-detail", [project.pk], request=request)
        return Response(shown, status=status.HTTP_201_CREATED, headers={"Location": location})


_PROJECT_ID = OpenApiParameter("project_id", OpenApiTypes.INT, OpenApiParameter.PATH)
_MEMBER_ID = OpenApiParameter("member_id", OpenApiTypes.INT, OpenApiParameter.PATH)


@extend_schema_view(
    get=extend_schema(
        summary="Show a project",
        tags=["access"],
        parameters=[_PROJECT_ID],
        responses={200: ProjectSerializer, **described.answers(404, 503)},
    ),
    patch=extend_schema(
        summary="Change a project",
        tags=["access"],
        parameters=[_PROJECT_ID],
        request=NewProjectSettingsSerializer,
        responses={200: ProjectSerializer, **described.answers(400, 404, 413, 415, 503)},
    ),
)
class ProjectDetail(ProjectView):
    """A project."""

    scopes = {"GET": ANY, "PATCH": MANAGE}
    serializer_class = ProjectSerializer

    def get(self, request: Request, project_id: str) -> Response:
        """Return a project."""
        return Response(ProjectSerializer(self.project(ANY), context={"view": self}).data)

    def patch(self, request: Request, project_id: str) -> Response:
        """Change a project. Managers change the retention; only staff change the name and the limits."""
        project = self.project(MANAGE)
        requested = NewProjectSettingsSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        return Response(self.saved(project, requested.validated_data))


class MemberSerializer(serializers.ModelSerializer[Membership]):
    """A member of a project."""

    user = serializers.CharField(source="user.username", read_only=True, help_text="The name of the user.")

    class Meta:
        model = Membership
        fields = ["id", "user", "role"]
        read_only_fields = fields


class NewMemberRoleSerializer(ClosedSerializer):
    """The new role of a member."""

    role = serializers.ChoiceField(Role.choices)


class NewMemberSerializer(NewMemberRoleSerializer):
    """A new member."""

    user = serializers.CharField(max_length=_USER_NAME_LENGTH, help_text="The exact name of an active user.")


@extend_schema_view(
    get=extend_schema(
        summary="List the members of a project",
        tags=["access"],
        parameters=[_PROJECT_ID],
        responses={200: MemberSerializer(many=True), **described.answers(400, 404, 503)},
    ),
    post=extend_schema(
        summary="Add a member to a project",
        tags=["access"],
        parameters=[_PROJECT_ID],
        request=NewMemberSerializer,
        responses={201: MemberSerializer, **described.answers(400, 404, 413, 415, 503)},
    ),
)
class MemberList(ProjectView, generics.ListAPIView[Membership]):
    """The members of a project, in the order in which they were added."""

    scopes = {"GET": MANAGE, "POST": MANAGE}
    queryset = Membership.objects.none()
    serializer_class = MemberSerializer
    pagination_class = MemberPages
    filter_backends = []
    query_parameters = ("cursor", "page_size")

    def get_queryset(self) -> QuerySet[Membership]:
        """Return the members of the project."""
        return Membership.objects.filter(project=self.project(MANAGE)).select_related("user")

    def post(self, request: Request, project_id: str) -> Response:
        """Add a member to a project, with a role."""
        project = self.project(MANAGE)
        requested = NewMemberSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        name = requested.validated_data["user"]
        user = get_user_model().objects.filter(username=name, is_active=True).first()
        if user is None:
            raise InvalidParameterError(
                "There is no active account with this user name.", parameter="user", received=name
            )
        member = Membership(project=project, user=user, role=requested.validated_data["role"])
        try:
            save_members(project, self.identity, address_of(request), saved=[member])
        except IntegrityError as error:
            raise InvalidParameterError("This user is a member already.", parameter="user", received=name) from error
        return Response(MemberSerializer(member).data, status=status.HTTP_201_CREATED)


@extend_schema_view(
    patch=extend_schema(
        summary="Change the role of a member",
        tags=["access"],
        parameters=[_PROJECT_ID, _MEMBER_ID],
        request=NewMemberRoleSerializer,
        responses={200: MemberSerializer, **described.answers(400, 404, 409, 413, 415, 503)},
    ),
    delete=extend_schema(
        summary="Remove a member from a project",
        tags=["access"],
        parameters=[_PROJECT_ID, _MEMBER_ID],
        responses={204: None, **described.answers(404, 409, 503)},
    ),
)
class MemberDetail(ProjectView):
    """A member of a project. A project needs at least one manager."""

    scopes = {"PATCH": MANAGE, "DELETE": MANAGE}
    serializer_class = MemberSerializer

    def member(self) -> Membership:
        """Return the member.

        Raises:
            MemberNotFoundError: The project has no such member.
        """
        text = self.kwargs["member_id"]
        members = Membership.objects.filter(project=self.project(MANAGE)).select_related("user", "project")
        found = members.filter(pk=_number(text)).first()
        if found is None:
            raise MemberNotFoundError(received=text[:64])
        return found

    def patch(self, request: Request, project_id: str, member_id: str) -> Response:
        """Change the role of a member. A project needs at least one manager."""
        member = self.member()
        requested = NewMemberRoleSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        role = requested.validated_data["role"]
        if role != member.role:
            member.role = role
            save_members(member.project, self.identity, address_of(request), saved=[member])
        return Response(MemberSerializer(member).data)

    def delete(self, request: Request, project_id: str, member_id: str) -> Response:
        """Remove a member from a project. A project needs at least one manager."""
        member = self.member()
        save_members(member.project, self.identity, address_of(request), removed=[member])
        return Response(status=status.HTTP_204_NO_CONTENT)
