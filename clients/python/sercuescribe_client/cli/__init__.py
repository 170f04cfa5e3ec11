"""The command `scribe`. It needs the extra `cli` of the package."""

import sys


def main() -> None:
    """Run the command."""
    try:
        from sercuescribe_client.cli.app import app
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "typer"):
            raise
        sys.exit(f"scribe needs the package {error.name}. Install it with: pip install 'sercuescribe-client[cli]'")
    app(prog_name="scribe")
