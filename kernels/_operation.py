"""How an operation finds its backends: by the files of its folder, chosen once, never silently.

A backend module has

* ``PRIORITY: int``, the highest one that does not refuse is chosen;
* ``refuses(**request) -> str | None``, why it cannot serve such a request (``None``: it can);
* ``run(...)``, with the signature of the operation.

``reference`` always exists, has priority 0 and refuses nothing.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from types import ModuleType
from typing import Any


class Operation:
    """The backends of one operation.

    Args:
        package: Import name of the operation's folder; pass ``__name__`` from its ``__init__.py``.
    """

    def __init__(self, package: str) -> None:
        self.package = package
        self.name = package.rpartition(".")[2]

    @property
    def backends(self) -> list[str]:
        """Names of all backends, whether they can run here or not."""
        path = importlib.import_module(self.package).__path__
        return sorted(
            m.name for m in pkgutil.iter_modules(path) if not m.ispkg and not m.name.startswith("_")
        )

    def load(self, name: str) -> ModuleType:
        """Import one backend.

        Raises:
            ValueError: No such backend.
        """
        return _load(self.package, name, self.name)

    def choose(self, name: str | None = None, /, **request: Any) -> ModuleType:
        """Return the backend to use for a request.

        Args:
            name: A backend asked for by name: it is used or refused, never replaced. ``None`` takes
                the one with the highest priority that does not refuse.
            **request: What the backends' ``refuses`` want to know.

        Raises:
            ValueError: The named backend is unknown or refuses.
        """
        if name is not None:
            module = self.load(name)
            if reason := module.refuses(**request):
                raise ValueError(f"{self.name}[{name}] {reason}")
            return module
        for module in _by_priority(self.package, self.name):
            if not module.refuses(**request):
                return module
        raise AssertionError(f"{self.name}: the reference refused")  # reference refuses nothing

    def refusals(self, **request: Any) -> dict[str, str | None]:
        """Say for every backend why it refuses a request, ``None`` where it can serve it."""
        return {name: self.load(name).refuses(**request) for name in self.backends}


@cache
def _load(package: str, name: str, operation: str) -> ModuleType:
    try:
        return importlib.import_module(f"{package}.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"{package}.{name}":
            raise
        known = ", ".join(Operation(package).backends)
        raise ValueError(f"unknown backend {operation}[{name}]; known: {known}") from None


@cache
def _by_priority(package: str, operation: str) -> tuple[ModuleType, ...]:
    modules = [_load(package, name, operation) for name in Operation(package).backends]
    return tuple(sorted(modules, key=lambda m: -int(m.PRIORITY)))
