"""Operations on arrays, a folder each: ``__init__.py`` is the contract, ``reference.py`` the truth.

Every other file of the folder is a backend named after the file; no registry has to be edited.
Tests and benchmarks enumerate the folders through :func:`operations`.
"""

from __future__ import annotations

import pkgutil

__all__ = ["operations"]


def operations() -> list[str]:
    """Return the names of all operations: the sub-packages of this package, sorted."""
    return sorted(m.name for m in pkgutil.iter_modules(__path__) if m.ispkg)
