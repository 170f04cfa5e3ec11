"""The line that tells how far a command is: on a terminal alone, and gone when something else is written."""

import io
import sys

from audio.management.arguments import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_sees_one_line_that_changes_and_goes(monkeypatch):
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress()
    for fraction in (0.0, 0.5, 0.5001, 1.0):
        progress("journals", fraction)
    progress.clear()
    progress.clear()
    shown = terminal.getvalue().split("\r")
    assert [line.strip() for line in shown] == [
        "",
        "journals [                    ]   0%",
        "journals [##########          ]  50%",
        "journals [####################] 100%",
        "",
        "",
    ]
    assert shown[-2] == " " * len(shown[-3])


def test_anything_else_sees_nothing(capsys):
    progress = Progress()
    progress("journals", 0.5)
    progress.clear()
    assert capsys.readouterr().err == ""
