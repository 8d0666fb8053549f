"""Run windows through a bundle: arrays in, arrays out. docs/run.md describes both files."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import errors
from ..capture import Capture
from ..files import write_npz
from . import _options

if TYPE_CHECKING:
    from ..runtime import Result

HELP = "run windows of an .npz file through a bundle"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite run``."""
    parser.add_argument("bundle", metavar="BUNDLE")
    parser.add_argument("input", metavar="INPUT.npz")
    parser.add_argument("-o", "--out", required=True, metavar="OUTPUT.npz", help="file to write")
    parser.add_argument(
        "--capture",
        action="append",
        nargs="+",
        default=[],
        metavar="SITE:STATISTIC[:OPTION]",
        help="attention to return, for example encoder:per_unit:spikes or 'processor.*:per_key'",
    )
    parser.add_argument(
        "--rollout",
        choices=("mean", "max"),
        help="also what queries take from units through all layers, heads fused like this",
    )
    _options.add_engine(parser)
    parser.add_argument(
        "--batch-size", type=int, help="windows at a time, at most; default: what is fastest"
    )


def run(options: argparse.Namespace) -> int:
    """Run and write; return the exit status."""
    if not Path(options.out).absolute().parent.is_dir():
        raise errors.must(f"the folder of {options.out}", "exist", "none", "make it first")
    capture = Capture.parse(text for texts in options.capture for text in texts)
    engine = _options.engine(options)
    batch = engine.model.batch.from_npz(options.input)
    result = engine.run(batch, capture, batch_size=options.batch_size, rollout=options.rollout)
    write_npz(options.out, arrays(result))
    return 0


def arrays(result: Result) -> Mapping[str, Any]:
    """Name the arrays of a run's output file."""
    out: dict[str, Any] = {}
    if isinstance(result.prediction, dict):
        for task, values in result.prediction.items():
            out[f"prediction/{task}"] = values
            out[f"prediction_index/{task}"] = result.prediction_index[task]
    else:
        out["prediction"] = result.prediction
    if result.attention is not None:
        out |= result.attention.arrays()
    if result.rollout is not None:
        out["rollout"] = result.rollout
    return out | {"meta": json.dumps(result.meta)}
