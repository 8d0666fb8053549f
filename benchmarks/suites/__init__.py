"""One file for each suite: ``cases(options)`` yields the cases, inputs and contestants made."""

from __future__ import annotations
