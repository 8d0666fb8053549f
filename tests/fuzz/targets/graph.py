"""ONNX files of bundles, up to where onnxruntime gets them."""

from __future__ import annotations

from pathlib import Path

import tiny
from attendrite import graph, models
from attendrite.capture import Capture

SPIKES = Capture({"*": ["weights", "per_key"], "encoder": ["per_unit:spikes", "entropy", "lse"]})
CAPTURES = dict.fromkeys(tiny.PERCEIVERS, SPIKES)
CAPTURES |= {"v1t": Capture({"*": ["weights", "top_k:2"]}), "sensorium": Capture({})}


def seeds(folder: Path) -> list[Path]:
    folder.mkdir(parents=True)
    for family, capture in CAPTURES.items():
        bundle, model = tiny.bundle(family), _model(family)
        data = graph.build(bundle.manifest, bundle.weights, capture.plan(model.sites))
        (folder / f"{family}.onnx").write_bytes(data)
    return [folder / f"{family}.onnx" for family in CAPTURES]


def read(path: Path) -> None:
    found = graph.check(path.read_bytes())
    name = found.graph.name  # that of the family, if the file came from us
    graph.fits(found, _model(name if name in CAPTURES else "poyo"))


def _model(family: str) -> models.Family:
    bundle = tiny.bundle(family)
    return models.load(family)(bundle.manifest, bundle.weights)
