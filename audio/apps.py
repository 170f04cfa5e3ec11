"""Django's entry to the product: the name of the app and its system checks."""

from django.apps import AppConfig


class AudioConfig(AppConfig):
    """Registers the checks of `audio.checks`."""

    name = "audio"
    verbose_name = "Recordings"

    def ready(self) -> None:
        """Imports the checks, whose decorators register them."""
        from audio import checks  # noqa: F401
