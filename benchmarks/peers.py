"""Peers that may be missing: each is imported when it takes part, or named as skipped."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable

from timing import Case, Contestant


def join(case: Case, builders: Iterable[Callable[[], Contestant | list[Contestant]]]) -> Case:
    """Add contestants to a case; a builder whose package is missing is skipped visibly.

    Args:
        case: The case, changed.
        builders: Functions named after the peer that import it, prepare it, and return contestants.
    """
    for build in builders:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the peers' own imports
                built = build()
        except ImportError as error:
            case.skipped[getattr(build, "func", build).__name__] = (
                f"{error.name or error} is not installed"
            )
            continue
        case.contestants += built if isinstance(built, list) else [built]
    return case
