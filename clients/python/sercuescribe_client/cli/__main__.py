"""Run the command with `python -m sercuescribe_client.cli`."""

from sercuescribe_client.cli import main

main()
