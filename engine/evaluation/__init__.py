"""Honest evaluation of decoders: splits in time, sample times, metrics and baselines.

The rules, each of which refuses what breaks it:

* Splits are contiguous blocks of time. Between blocks of different use lies a gap of at least one
  window, so that no window on validation or test time reaches into training time.
* Everything that is chosen (steps of training, hyper-parameters, windows of a baseline) is chosen
  on the training side: fitted on training blocks, compared on validation blocks.
* A baseline sees the same samples with the same temporal support as the decoder beside it.
"""

from __future__ import annotations

from .baselines import Choice, Support, bayes_place, ridge
from .metrics import correlation, median_error, r2
from .samples import Samples, draw_samples, inside
from .splits import Split, split_blocks

__all__ = [
    "Choice",
    "Samples",
    "Split",
    "Support",
    "bayes_place",
    "correlation",
    "draw_samples",
    "inside",
    "median_error",
    "r2",
    "ridge",
    "split_blocks",
]
