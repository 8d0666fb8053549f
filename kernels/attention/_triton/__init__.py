"""Device code of the Triton backend: kernels of pointers and sizes, launched by ``triton.py``.

Inside, logarithms are to the base 2, ``exp2`` being what the hardware has; what leaves is natural.
Every sum has a fixed order: no atomics, each program writes its own numbers.
"""

from __future__ import annotations
