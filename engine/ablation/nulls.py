"""Rankings to compare a ranking with.

| null | rankings |
|---|---|
| ``random`` | uniform permutations |
| ``rate`` | permutations within strata of firing rate: every prefix holds exactly as many units of each stratum as the same prefix of the ranking |
| ``bottom`` | the ranking reversed; one ranking, to look at rather than to test with |

Ranking ``r`` of a null is a function of the seed, the null and ``r``, wherever it is drawn.
"""  # noqa: E501

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ..analysis.shares import permutations
from ..analysis.strata import Strata

Order = NDArray[np.int64]

_STREAM = {"random": 1, "rate": 2, "bottom": 3}  # part of the seed: never renumber
NAMES = tuple(_STREAM)


def random(order: Order, rng: np.random.Generator) -> Order:
    """Draw a uniform permutation of the units of a ranking, ``[U]``."""
    return rng.permutation(order)


def rate(order: Order, strata: Strata, rng: np.random.Generator) -> Order:
    """Draw a permutation within strata, ``[U]``: each place keeps its stratum."""
    return strata.permutation(rng)[order]


def bottom(order: Order) -> Order:
    """Return the ranking reversed, ``[U]``."""
    return order[::-1].copy()


def ranking(null: str, order: Order, strata: Strata, seed: int, r: int) -> Order:
    """Return ranking ``r`` of a null.

    Args:
        null: One of :data:`NAMES`.
        order: The ranking, ``[U]``: units in the order of their removal, each of ``0..U-1`` once.
        strata: Strata of the ``U`` units.
        seed: At least 0.
        r: At least 0.

    Raises:
        AttendriteError: An unknown null, or an order that does not hold each unit once.
    """
    errors.choice("null", null, NAMES)
    if not np.array_equal(np.sort(order), np.arange(len(strata.of))):
        raise errors.must("an order", f"hold each of {len(strata.of)} units once", list(order))
    rng = np.random.default_rng([seed, _STREAM[null], r])
    draw: dict[str, Callable[[], Order]] = {
        "random": lambda: random(order, rng),
        "rate": lambda: rate(order, strata, rng),
        "bottom": lambda: bottom(order),
    }
    return draw[null]()


def distinct(null: str, strata: Strata) -> int:
    """Return how many distinct rankings a null can give, counted up to 1e9.

    Args:
        null: One of :data:`NAMES`.
        strata: Strata of the units.
    """
    errors.choice("null", null, NAMES)
    sizes = {"random": [len(strata.of)], "rate": strata.sizes, "bottom": []}[null]
    return permutations(sizes, 1)
