"""docs/configuration.md against the settings: every variable with its default, and no other."""

import ast
from pathlib import Path

from tests.docs.text import tables, unquoted
from tests.services import REPOSITORY

PAGE = REPOSITORY / "docs" / "configuration.md"
READERS = {"_text", "_path", "_number", "_seconds", "_choice", "_flag", "_list"}
# What the defaults are made of, where nothing is set.
CLEAN = {"DATA_DIR": Path("var"), "_LOOPBACK": True, "IS_LOCAL_ONLY": True, "REQUIRE_AUTH": False, "str": str}


def settings_defaults() -> dict[str, str]:
    """The variables that the settings read, in their order, with the defaults as one would write them."""
    tree = ast.parse((REPOSITORY / "sercuescribe" / "settings.py").read_text())
    found = {}
    for call in sorted((node for node in ast.walk(tree) if isinstance(node, ast.Call)), key=lambda call: call.lineno):
        match call:
            case ast.Call(func=ast.Name(id=reader), args=[ast.Constant(value=str(name)), default, *_]):
                if reader in READERS:
                    found[name] = written(default)
    return found


def written(default: ast.expr) -> str:
    value = eval(compile(ast.Expression(default), "settings", "eval"), dict(CLEAN))
    return str(value).lower() if isinstance(value, bool) else str(value)


def test_the_tables_have_every_variable_with_its_default():
    rows = tables(PAGE, "variable")
    documented = {unquoted(name): unquoted(default).replace("—", "") for name, default, _ in rows}
    assert documented == settings_defaults()
    assert len(rows) == len(documented)


def test_nothing_else_reads_the_environment():
    readers = []
    for folder in ("audio", "sercuescribe", "tasks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            if any(word in path.read_text() for word in ("environ.get", "environ[", "getenv")):
                readers.append(path.relative_to(REPOSITORY).as_posix())
    # The children of `serve` find our packages where ours were found; the server names a folder to a library.
    others = {"audio/management/commands/serve.py", "sercuescribe/server.py"}
    assert set(readers) == {"sercuescribe/settings.py", *others}
