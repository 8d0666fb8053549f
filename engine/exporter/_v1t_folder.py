"""V1T's output folders: ``args.yaml`` (or ``.json``) and ``model_state.pt``, there or in ``ckpt/``.

The checkpoint also holds the state of the training, objects of any kind among it: of it all only
the tensors of ``model`` are kept.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from .. import errors
from ..bundle import sha256_of
from ._inert import read_tensors

WEIGHTS = ("ckpt/model_state.pt", "model_state.pt")
ARGUMENTS = ("args.yaml", "args.json")
KEPT = "model"
MODE = "ensemble_mode"  # an argument of ensembles alone
FRANKE = "franke2022"  # whose images are of the core's size
# What the arguments of some cores lack. Of transformers, the shapes of the weights check the rest.
LACKING = {"linear": False, "patch_mode": 0, "patch_size": 8, "patch_stride": 1}
LONGEST = 1 << 20  # bytes of arguments


class _Plain(yaml.SafeLoader):
    """Reads plain data, and Python's tuples, which V1T writes, as lists."""


def _listed(loader: Any, node: Any) -> list[Any]:
    return list(loader.construct_sequence(node))


_Plain.add_constructor("tag:yaml.org,2002:python/tuple", _listed)


def read(folder: Path) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return weights, hyper-parameters, and facts about the source.

    Of an ensemble that averages there are no weights.

    Raises:
        AttendriteError: A file is missing, or not such a file.
    """
    given = _arguments(_one(folder, ARGUMENTS))
    if given.get(MODE) == 0 and not any((folder / name).is_file() for name in WEIGHTS):
        return {}, given, {"layout": "v1t"}
    path = _one(folder, WEIGHTS)
    facts = {"file": path.name, "sha256": sha256_of(path), "layout": "v1t"}
    state = read_tensors(path, KEPT)
    resized = given.get("resize_image", 1) and given.get("ds_name") != FRANKE
    return state, {**LACKING, **given, "resize_image": bool(resized)}, facts


def _one(folder: Path, names: tuple[str, ...]) -> Path:
    for name in names:
        if (folder / name).is_file():
            return folder / name
    be = "hold " + " or ".join(names)
    raise errors.must(str(folder), be, "neither", "give V1T's output folder, or a checkpoint file")


def _arguments(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LONGEST:
        raise errors.must(str(path), f"have at most {LONGEST} bytes", path.stat().st_size)
    try:
        text = path.read_text(encoding="utf-8")
        table = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=_Plain)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise errors.must(str(path), "hold V1T's arguments", str(error).splitlines()[0]) from None
    if not isinstance(table, dict):
        raise errors.must(str(path), "hold a table of arguments", type(table).__name__)
    return {str(name): value for name, value in table.items()}
