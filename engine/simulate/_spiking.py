"""Spikes from a rate: Poisson with an absolute and a relative refractory period.

The rate of a cell is the product of a free rate, which the stimulus sets, and a recovery function
of the time since the last spike: 0 for the absolute period, then ``1 - exp(-t / relative)``
(Berry and Meister 1998, doi:10.1523/JNEUROSCI.18-06-02200.1998; primate parasol cells: Uzzell and
Chichilnisky 2004, doi:10.1152/jn.01171.2003). The form of the recovery and its times are chosen.

Both steps are exact for a free rate that is constant between edges. Candidates come from the free
rate by time rescaling. One is kept with the probability of having recovered, which is to say: if
more time has passed since the last spike than the absolute period and an exponential draw.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

ABSOLUTE_S = 0.002
RELATIVE_S = 0.003


def fire(
    rates: Floats,
    edges: Floats,
    rng: np.random.Generator,
    absolute_s: float = ABSOLUTE_S,
    relative_s: float = RELATIVE_S,
) -> Floats:
    """Draw the spikes of one cell.

    Args:
        rates: Free rate between two edges, ``[T]``, Hz, at least 0.
        edges: ``[T + 1]``, s, increasing.
        rng: Where the draws come from.
        absolute_s: Absolute refractory period, s; with ``relative_s`` 0 as well: a Poisson process.
        relative_s: Time constant of the recovery after it, s.

    Returns:
        Spike times, ``[n]``, s, sorted; newly allocated.
    """
    expected = np.concatenate([[0.0], np.cumsum(rates * np.diff(edges))])
    total = expected[-1]
    rescaled = np.sort(rng.uniform(0, total, rng.poisson(total)))
    candidates = np.interp(rescaled, expected, edges)
    pauses = absolute_s + relative_s * rng.standard_exponential(len(candidates))
    kept, last = [], -np.inf
    for i, (time, pause) in enumerate(zip(candidates.tolist(), pauses.tolist(), strict=True)):
        if time - last > pause:
            last = time
            kept.append(i)
    return np.asarray(candidates[kept], np.float64)
