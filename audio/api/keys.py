"""The REST API of API keys and session tokens."""

from datetime import timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import QuerySet
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiParameter, extend_schema, extend_schema_field, extend_schema_view
from rest_framework import generics, serializers, status
from rest_framework.request import Request
from rest_framework.response import Response

from audio import access
from audio.access import issue
from audio.access.identity import Kind
from audio.api import described
from audio.api.access import MANAGE, RECORD, address_of
from audio.api.paging import KeyPages
from audio.api.queries import find_session
from audio.api.serializers import ClosedSerializer
from audio.api.views import CheckedView, SessionView, websocket_url
from audio.errors import AudioError, KeyNotFoundError, NotAllowedError, TokenNotFoundError
from audio.models import ApiKey, Project, Scope, SessionToken, TokenPurpose

_DAY_SECONDS = 24 * 3600
MAX_LISTEN_SECONDS = 30 * _DAY_SECONDS
_LISTEN_SECONDS = 3600


class KeySerializer(serializers.ModelSerializer[ApiKey]):
    """An API key, without its secret."""

    project = serializers.CharField(source="project.name", read_only=True)
    scopes = serializers.ListField(child=serializers.ChoiceField(Scope.choices), read_only=True)

    class Meta:
        model = ApiKey
        fields = [
            *("id", "project", "name", "prefix", "scopes", "created_at", "expires_at", "revoked_at", "last_used_at")
        ]
        read_only_fields = fields


class CreatedKeySerializer(KeySerializer):
    """A new API key with its secret."""

    key = serializers.SerializerMethodField(help_text="The key. It is shown once.")

    class Meta(KeySerializer.Meta):
        fields = [*KeySerializer.Meta.fields, "key"]
        read_only_fields = fields

    def get_key(self, key: ApiKey) -> str:
        """Return the secret."""
        return str(self.context["secret"])


class NewApiKeySerializer(ClosedSerializer):
    """A new API key."""

    name = serializers.CharField(max_length=100, help_text="The program that uses the key.")
    scopes = serializers.MultipleChoiceField(choices=Scope.choices, allow_empty=False)
    project = serializers.CharField(
        required=False, max_length=50, help_text="The name of the project. If absent, it is the caller's."
    )
    expires_at = serializers.DateTimeField(required=False, allow_null=True, help_text="If absent, it does not expire.")


@extend_schema_view(
    get=extend_schema(
        summary="List API keys, newest first",
        tags=["access"],
        parameters=[OpenApiParameter("project", OpenApiTypes.STR, description="List only the keys of this project.")],
        responses={200: KeySerializer(many=True), **described.answers(400, 404, 503)},
    ),
    post=extend_schema(
        summary="Create an API key",
        tags=["access"],
        request=NewApiKeySerializer,
        responses={201: CreatedKeySerializer, **described.answers(400, 404, 413, 415, 503)},
    ),
)
class KeyList(CheckedView, generics.ListAPIView[ApiKey]):
    """The API keys of the caller's projects. A new key is shown once."""

    scopes = {"GET": MANAGE, "POST": MANAGE}
    queryset = ApiKey.objects.select_related("project")
    serializer_class = KeySerializer
    pagination_class = KeyPages
    filter_backends = []
    query_parameters = ("cursor", "page_size", "project")

    def get_queryset(self) -> QuerySet[ApiKey]:
        """Return the keys of the projects that the caller manages."""
        return self.managed(super().get_queryset())

    def post(self, request: Request) -> Response:
        """Create an API key. The response contains the key, which is not shown again."""
        requested = NewApiKeySerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        wanted = requested.validated_data
        project_id = access.project_for(self.identity, wanted.get("project"))
        self.identity.require(MANAGE, project_id)
        project = Project.objects.get(pk=project_id)
        expires_at = wanted.get("expires_at")
        made, secret = issue.key(
            project, wanted["name"], wanted["scopes"], self.identity, expires_at, address_of(request)
        )
        shown = CreatedKeySerializer(made, context={"secret": secret}).data
        return Response(shown, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})


@extend_schema_view(
    delete=extend_schema(
        summary="Revoke an API key",
        tags=["access"],
        parameters=[OpenApiParameter("key_id", OpenApiTypes.UUID, OpenApiParameter.PATH)],
        responses={200: KeySerializer, **described.answers(404, 503)},
    )
)
class KeyDetail(CheckedView):
    """An API key."""

    scopes = {"DELETE": MANAGE}
    serializer_class = KeySerializer

    def delete(self, request: Request, key_id: str) -> Response:
        """Revoke an API key. Its session tokens end with it, and so do all their connections."""
        revoked = issue.revoke_key(_uuid(key_id, KeyNotFoundError), self.identity, address_of(request))
        return Response(KeySerializer(revoked).data)


class TokenSerializer(serializers.ModelSerializer[SessionToken]):
    """A session token, without its secret."""

    class Meta:
        model = SessionToken
        fields = ["id", "session_id", "purpose", "prefix", "created_at", "expires_at", "revoked_at"]
        read_only_fields = fields


class CreatedTokenSerializer(TokenSerializer):
    """A new session token with its secret."""

    token = serializers.SerializerMethodField(help_text="The token. It is shown once.")
    websocket_url = serializers.SerializerMethodField(
        help_text="Where to send the audio. The URL does not contain the token. Null for a token to listen."
    )

    class Meta(TokenSerializer.Meta):
        fields = [*TokenSerializer.Meta.fields, "token", "websocket_url"]
        read_only_fields = fields

    def get_token(self, token: SessionToken) -> str:
        """Return the secret."""
        return str(self.context["secret"])

    @extend_schema_field({"type": "string", "format": "uri", "nullable": True})
    def get_websocket_url(self, token: SessionToken) -> str | None:
        """Return where to send the audio; None for a token to listen."""
        if token.purpose == TokenPurpose.LISTEN:
            return None
        return websocket_url(self.context["request"], token.session_id)


class NewSessionTokenSerializer(ClosedSerializer):
    """A new session token."""

    purpose = serializers.ChoiceField(
        TokenPurpose.choices, default=TokenPurpose.RECORD, help_text="`record`, the default, or `listen`."
    )
    expires_in_seconds = serializers.IntegerField(
        required=False,
        min_value=1,
        max_value=MAX_LISTEN_SECONDS,
        help_text="How long the token is valid. The default is the longest time that a session can last "
        "(MAX_SESSION_DURATION_HOURS), and an hour to listen.",
    )

    def lifetime(self) -> timedelta:
        """Return how long the token is valid."""
        wanted = self.validated_data
        is_listener = wanted["purpose"] == TokenPurpose.LISTEN
        default = _LISTEN_SECONDS if is_listener else settings.MAX_SESSION_DURATION_HOURS * 3600
        return timedelta(seconds=wanted.get("expires_in_seconds", default))


@extend_schema_view(
    get=described.session_operation("List a session's tokens", {200: TokenSerializer(many=True)}, 400, 404, 503),
    post=described.session_operation(
        "Create a session token",
        {201: CreatedTokenSerializer},
        *(400, 404, 413, 415, 503),
        request=NewSessionTokenSerializer,
    ),
)
class TokenList(SessionView, generics.ListAPIView[SessionToken]):
    """The tokens of a session, for browsers and devices. A token is shown once."""

    scopes = {"GET": RECORD, "POST": RECORD}
    queryset = SessionToken.objects.none()
    serializer_class = TokenSerializer
    pagination_class = KeyPages
    filter_backends = []
    query_parameters = ("cursor", "page_size")

    def get_queryset(self) -> QuerySet[SessionToken]:
        """Return the tokens of the session."""
        _require_no_token(self.identity)
        return SessionToken.objects.filter(session=self.session())

    def post(self, request: Request, session_id: str) -> Response:
        """Create a token for a browser or a device, which can then record or listen to this session only."""
        _require_no_token(self.identity)
        session = self.session()
        requested = NewSessionTokenSerializer(data=request.data)
        requested.is_valid(raise_exception=True)
        purpose = requested.validated_data["purpose"]
        if purpose == TokenPurpose.LISTEN:
            find_session(session.pk, self.identity, "read")
        made, secret = issue.token(session, purpose, requested.lifetime(), self.identity, address_of(request))
        context = {"secret": secret, "request": request}
        shown = CreatedTokenSerializer(made, context=context).data
        return Response(shown, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})


@extend_schema_view(
    delete=described.session_operation(
        "Revoke a session token",
        {200: TokenSerializer},
        *(400, 404, 503),
        parameters=[OpenApiParameter("token_id", OpenApiTypes.UUID, OpenApiParameter.PATH)],
    )
)
class TokenDetail(SessionView):
    """A token of a session."""

    scopes = {"DELETE": RECORD}
    serializer_class = TokenSerializer

    def delete(self, request: Request, session_id: str, token_id: str) -> Response:
        """Revoke a session token. Its connections end at once."""
        _require_no_token(self.identity)
        token_key = _uuid(token_id, TokenNotFoundError)
        revoked = issue.revoke_token(self.session(), token_key, self.identity, address_of(request))
        return Response(TokenSerializer(revoked).data)


def _require_no_token(identity: access.Identity) -> None:
    """Reject session tokens: one that could make others would never end."""
    if identity.kind is Kind.TOKEN:
        raise NotAllowedError("A session token cannot be used for this. Use an API key.")


def _uuid(text: str, missing: type[AudioError]) -> UUID:
    """Return the id in a path.

    Raises:
        AudioError: The error `missing`, because nothing has such an id.
    """
    try:
        return UUID(text)
    except ValueError:
        raise missing(received=text[:64]) from None
