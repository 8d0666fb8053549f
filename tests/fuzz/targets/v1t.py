"""V1T's checkpoints, of which the tensors are read and nothing is called."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import tiny
import torch
from attendrite.exporter import _v1t_folder
from mutate import mutate_archive as mutate

__all__ = ["mutate", "read", "seeds"]


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    weights = dict(tiny.bundle("v1t").weights)
    scheduler = SimpleNamespace(step=3, history=[0.1, 0.2], model=torch.nn.Linear(2, 2))
    whole = {"epoch": 2, "model": weights, "scheduler": scheduler}
    torch.save(whole, folder / "model_state.pt")
    half = {
        name: torch.nn.Parameter(t.half().mT if t.ndim > 1 else t.half())
        for name, t in weights.items()
    }
    torch.save({"model": half}, folder / "half.pt")
    return [folder / "model_state.pt", folder / "half.pt"]


def read(path: Path) -> None:
    _v1t_folder.read_tensors(path, _v1t_folder.KEPT)
