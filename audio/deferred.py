"""Modules that are imported when they are first used, because most processes never use them.

    if TYPE_CHECKING:
        import numpy as np
    else:
        np = DeferredModule("numpy")

A module that does this needs `from __future__ import annotations` if its annotations use the deferred module.
"""

from importlib import import_module
from typing import Any


class DeferredModule:
    """A stand-in for a module, which imports it when one of its names is first used."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the module."""
        return getattr(import_module(self._name), name)
