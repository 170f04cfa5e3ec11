"""The description of the WebSocket protocol: AsyncAPI as JSON or YAML, or a page for people, depending on Accept."""

import json
from typing import Any

from django.urls import get_script_prefix
from django.utils.html import format_html_join
from drf_spectacular.renderers import OpenApiJsonRenderer, OpenApiJsonRenderer2, OpenApiYamlRenderer
from drf_spectacular.utils import extend_schema
from rest_framework.negotiation import DefaultContentNegotiation
from rest_framework.renderers import BaseRenderer, JSONRenderer, TemplateHTMLRenderer
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from audio.api import asyncapi
from audio.api.access import ANY, OPEN
from audio.errors import UpgradeRequiredError

_PAGE = "api/asyncapi.html"


class AsyncApiJsonRenderer(OpenApiJsonRenderer):
    """A renderer of AsyncAPI in JSON."""

    media_type = "application/vnd.aai.asyncapi+json"


class AsyncApiYamlRenderer(OpenApiYamlRenderer):
    """A renderer of AsyncAPI in YAML."""

    media_type = "application/vnd.aai.asyncapi+yaml"


class PlainYamlRenderer(OpenApiYamlRenderer):
    """A renderer of YAML with its generic media type."""

    media_type = "application/yaml"


class SuffixFirst(DefaultContentNegotiation):
    """A content negotiation in which a suffix of the path has precedence over Accept."""

    def select_renderer(
        self, request: Request, renderers: Any, format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        """Return the renderer and its media type."""
        if format_suffix:
            chosen: BaseRenderer = next(iter(self.filter_renderers(renderers, format_suffix)))
            return chosen, str(chosen.media_type)
        selected: tuple[BaseRenderer, str] = super().select_renderer(request, renderers)
        return selected


class Protocol(APIView):
    """The AsyncAPI document, or the page that shows it."""

    scopes = {"GET": ANY}
    content_negotiation_class = SuffixFirst
    renderer_classes = [
        *(AsyncApiJsonRenderer, OpenApiJsonRenderer2, AsyncApiYamlRenderer, PlainYamlRenderer, TemplateHTMLRenderer)
    ]

    @extend_schema(exclude=True)
    def get(self, request: Request, format: str | None = None) -> Response:
        """Return the AsyncAPI document, or the page that shows it."""
        scheme, path = "wss" if request.is_secure() else "ws", get_script_prefix().rstrip("/")
        document = asyncapi.document(scheme, request.get_host(), path)
        if isinstance(request.accepted_renderer, TemplateHTMLRenderer):
            return Response(_shown(document), template_name=_PAGE)
        return Response(document)


def _shown(document: dict[str, Any]) -> dict[str, Any]:
    """Return the content of the page, in the order in which it is read."""
    messages = document["components"]["messages"]
    query = document["channels"]["session"]["bindings"]["ws"]["query"]["properties"]
    heard, said = (document["operations"][f"{verb}NewSession"]["messages"] for verb in ("receive", "send"))
    names = _names(said)
    errors = [name for name in names if name.startswith(asyncapi.ERROR_PREFIX)]
    return {
        "description": _prose(document["info"]["description"]),
        "server": f"{document['servers']['here']['protocol']}://{document['servers']['here']['host']}"
        f"{document['servers']['here'].get('pathname', '')}",
        "channels": list(document["channels"].values()),
        "query": {
            name: {**schema, "description": _prose(schema.get("description", ""))} for name, schema in query.items()
        },
        "sections": [
            ("What a client sends", "client", [_row(name, messages) for name in _names(heard)]),
            ("What the server sends", "server", [_row(name, messages) for name in names if name not in errors]),
        ],
        "errors": [_row(name, messages) for name in errors],
        "close_codes": {code: _prose(meaning) for code, meaning in document["x-close-codes"].items()},
    }


def _prose(text: str) -> str:
    """Return a text as HTML, with code between backticks."""
    parts = enumerate(text.split("`"))
    return format_html_join("", "<{0}>{1}</{0}>", (("code" if number % 2 else "span", part) for number, part in parts))


def _names(references: list[dict[str, str]]) -> list[str]:
    return [reference["$ref"].rpartition("/")[2] for reference in references]


def _row(name: str, messages: dict[str, Any]) -> dict[str, Any]:
    message = messages[name]
    examples = [json.dumps(example["payload"], ensure_ascii=False) for example in message.get("examples", [])]
    return {
        "name": name.removeprefix(asyncapi.ERROR_PREFIX),
        "summary": _prose(message["summary"]),
        "examples": examples,
        "close_code": message.get("x-close-code"),
        "example": message["examples"][0]["payload"] if examples else {},
    }


class WebSocketPath(APIView):
    """The path of the WebSocket, for plain HTTP requests.

    Such requests come from people, or from a proxy that does not pass the upgrade on.
    """

    authentication_classes = []
    scopes = {"GET": OPEN}
    renderer_classes = [JSONRenderer]

    def get(self, request: Request, session_id: str = "") -> Response:
        """Reject the request, because only a WebSocket can use this path."""
        raise UpgradeRequiredError
