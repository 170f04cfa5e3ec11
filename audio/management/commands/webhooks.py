"""`manage.py webhooks`: create, list and test webhooks, and send events again.

Exit code 0: done; 1: it failed; 2: wrong arguments.
"""

import uuid
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from audio.database import database_time
from audio.errors import AudioError
from audio.management.arguments import json_line
from audio.models import EventType, Project, WebhookDelivery, WebhookEndpoint
from audio.models.access import DEFAULT_PROJECT_NAME
from audio.webhooks import endpoints

_STATES = {True: "enabled", False: "disabled"}


class Command(BaseCommand):
    """Create, list and test webhooks, and send events again."""

    help = "Creates, lists and tests webhooks, and sends events again."

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Add a subcommand for each action."""
        actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
        create = actions.add_parser("create", help="create a webhook and print its secret; it cannot be shown again")
        create.add_argument("url", help="where events are sent, such as https://host/hook")
        create.add_argument("--project", default=DEFAULT_PROJECT_NAME, help="(default: %(default)s)")
        create.add_argument(
            "--event", action="append", default=[], choices=EventType.values, help="repeat it; (default: all events)"
        )
        listed = actions.add_parser("list", help="list webhooks, newest first")
        test = actions.add_parser("test", help="send an event of the type webhook.test")
        test.add_argument("id", help="the id of a webhook")
        replay = actions.add_parser("replay", help="send events again, with the same ids")
        replay.add_argument("id", help="the id of a delivery, or with --hours that of a webhook")
        replay.add_argument(
            "--hours", type=float, help="send all events of the last HOURS that the webhook has not received"
        )
        for action in (create, listed, test, replay):
            action.add_argument("--json", action="store_true", help="print one JSON object per line")

    def handle(self, *args: Any, **options: Any) -> None:
        """Run the action.

        Raises:
            CommandError: It failed.
        """
        self._is_json = options["json"]
        try:
            getattr(self, f"_{options['action']}")(options)
        except AudioError as error:
            raise CommandError(error.detail) from error

    def _create(self, options: dict[str, Any]) -> None:
        project = Project.objects.filter(name=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']!r}.")
        endpoint, secret = endpoints.create(project.pk, options["url"], options["event"])
        self._tell(f"{endpoint.pk}\n{secret}", id=str(endpoint.pk), secret=secret)

    def _list(self, options: dict[str, Any]) -> None:
        for endpoint in WebhookEndpoint.objects.select_related("project").order_by("-created_at", "-id"):
            state = _STATES[endpoint.is_enabled]
            since = endpoint.failing_since and endpoint.failing_since.isoformat(" ", "seconds")
            told = endpoint.disabled_reason or (f"failing since {since}" if since else "")
            self._tell(
                f"{endpoint.pk}  {endpoint.project.name}  {state}  {endpoint.url}  {told}".rstrip(),
                id=str(endpoint.pk),
                project=endpoint.project.name,
                url=endpoint.url,
                event_types=endpoint.event_types,
                is_enabled=endpoint.is_enabled,
                disabled_reason=endpoint.disabled_reason,
                failing_since=since,
            )

    def _test(self, options: dict[str, Any]) -> None:
        sent = endpoints.test(_endpoint(options["id"]))
        self._tell(f"A test event is being sent. Delivery: {sent.pk}", delivery_id=str(sent.pk))

    def _replay(self, options: dict[str, Any]) -> None:
        if options["hours"] is not None:
            since = database_time() - timedelta(hours=options["hours"])
            count = endpoints.recover(_endpoint(options["id"]), since)
        else:
            sent = WebhookDelivery.objects.select_related("endpoint").filter(pk=_key(options["id"])).first()
            if sent is None:
                raise CommandError(f"There is no delivery {options['id']}. With --hours, name a webhook.")
            endpoints.replay(sent)
            count = 1
        self._tell(f"{count} event{'' if count == 1 else 's'} will be sent.", events=count)

    def _tell(self, text: str, **facts: Any) -> None:
        self.stdout.write(json_line(facts) if self._is_json else text)


def _key(text: str) -> uuid.UUID:
    try:
        return uuid.UUID(text)
    except ValueError:
        raise CommandError(f"{text[:64]!r} is no id.") from None


def _endpoint(text: str) -> WebhookEndpoint:
    endpoint = WebhookEndpoint.objects.filter(pk=_key(text)).first()
    if endpoint is None:
        raise CommandError(f"There is no webhook {text}.")
    return endpoint
