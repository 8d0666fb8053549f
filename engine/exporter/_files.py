"""Reads a torch file of plain data; nothing of the file is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from .. import errors

OLDEST_TORCH = (2, 10)  # CVE-2026-24747: weights_only could be bypassed before


def torch_file(path: Path) -> Any:
    """Read a file that ``torch.save`` wrote.

    Raises:
        AttendriteError: Not such a file, it holds more than plain data, or torch is too old.
    """
    version = tuple(int(part) for part in str(torch.__version__).split("+")[0].split(".")[:2])
    if version < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise errors.must(
            "torch", f"be at least {oldest} to read checkpoints safely", torch.__version__,
            f"pip install 'torch>={oldest}'; bundles run with older ones",
        )  # fmt: skip
    if not path.is_file():
        raise errors.must(str(path), "be a checkpoint file", "nothing there")
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # whatever a foreign file provokes, it is not a checkpoint
        got = str(error).strip().splitlines()
        shown = next((line for line in got if "GLOBAL" in line), got[0] if got else "an error")
        raise errors.must(
            str(path),
            "be a torch file of tensors, dictionaries, strings and numbers",
            f"{type(error).__name__}: {shown.strip()[:200]}",
            "where it was trained, save model.state_dict() with torch.save and export that",
        ) from None
