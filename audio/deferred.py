"""Modules that are loaded when they are first used, because most processes never use them.

    if TYPE_CHECKING:
        import numpy as np
    else:
        np = DeferredModule("numpy")

A module that does so needs `from __future__ import annotations` where its annotations name the other one.
"""

from importlib import import_module
from typing import Any


class DeferredModule:
    """Stand-in for a module, which imports it when one of its names is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        """Return what the module has by that name."""
        return getattr(import_module(self._name), name)
