"""Where benchmarks print: a line at a time, at once, also into a pipe."""

import sys


def say(text: str) -> None:
    """Prints a line."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
