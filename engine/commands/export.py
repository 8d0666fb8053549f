"""Make a bundle from a checkpoint of torch_brain, V1T or sensorium; ONNX too."""

from __future__ import annotations

import argparse

from .. import errors
from . import _options

HELP = "make a bundle from a checkpoint"


def arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``attendrite export``."""
    parser.add_argument(
        "source",
        nargs="?",
        help="Lightning checkpoint, a saved state_dict, V1T's output folder, or a bundle; with "
        "--member an ensemble of V1T, or nothing: the mean",
    )
    parser.add_argument("-o", "--out", required=True, metavar="BUNDLE", help="folder to make")
    parser.add_argument(
        "--family",
        help=f"one of {', '.join(_options.modules('models'))}; default: told by the weights",
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="what the weights do not tell: sequence_length=1.0, latent_step=0.125, task.NAME=ID, "
        "linear=false, input_shape=1,36,64",
    )
    parser.add_argument(
        "--data",
        action="append",
        default=[],
        metavar="MOUSE=SCAN",
        help="scan that an image model was trained on: its statistics are kept",
    )
    parser.add_argument(
        "--member",
        action="append",
        default=[],
        metavar="NAME=SOURCE",
        help="one model of an ensemble of image models: a bundle, or what a bundle is made of",
    )
    parser.add_argument("--name", help="what to call the model; default: after the folder")
    parser.add_argument("--training", metavar="FILE.json", help="facts about the training to keep")
    parser.add_argument(
        "--onnx", action="store_true", help="also write the model as graph.onnx, to run anywhere"
    )
    parser.add_argument(
        "--capture",
        action="append",
        nargs="+",
        default=[],
        metavar="SITE:STATISTIC[:OPTION]",
        help="attention that the graph returns too, for example encoder:per_unit",
    )
    parser.add_argument("--force", action="store_true", help="replace a bundle that is there")


def run(options: argparse.Namespace) -> int:
    """Export; return the exit status."""
    from ..capture import Capture
    from ..exporter import export, read_training

    settings, data = _pairs("--set", options.set), _pairs("--data", options.data)
    members = _pairs("--member", options.member)
    if options.source is None and not members:
        raise errors.must("the source", "be given", "none", "name a checkpoint, or --member")
    folder = export(
        options.source,
        options.out,
        family=options.family,
        settings=settings,
        name=options.name,
        training=None if options.training is None else read_training(options.training),
        force=options.force,
        onnx=options.onnx,
        capture=Capture.parse(text for texts in options.capture for text in texts)
        if options.capture
        else None,
        data=data,
        members=members,
    )
    print(folder)
    return 0


def _pairs(option: str, texts: list[str]) -> dict[str, str]:
    """Split what an option was given into names and values."""
    found = {}
    for text in texts:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise errors.must(option, "read KEY=VALUE", repr(text))
        if key in found:
            raise errors.must(option, "name each once", repr(key))
        found[key] = value
    return found
