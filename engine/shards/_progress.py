"""Progress on stderr: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from tqdm import tqdm

LINE_S = 30.0  # between lines


class Progress:
    """Counts shards; the rate is that of this start, without what was there before."""

    def __init__(self, total: int, there: int, shown: bool) -> None:
        self._bar = tqdm(
            total=total,
            initial=there,
            unit="shard",
            file=sys.stderr,
            disable=not (shown and sys.stderr.isatty()),
        )
        self._lines = shown and not sys.stderr.isatty()
        self._total, self._there, self._n = total, there, there
        self._began = time.monotonic()
        self._said = -LINE_S

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self._bar.close()

    def update(self) -> None:
        """Count one more shard."""
        self._n += 1
        self._bar.update()
        elapsed = time.monotonic() - self._began
        if self._lines and (elapsed - self._said >= LINE_S or self._n == self._total):
            self._said = elapsed
            line = tqdm.format_meter(
                self._n, self._total, elapsed, ncols=0, unit="shard", initial=self._there
            )
            print(line, file=sys.stderr, flush=True)
