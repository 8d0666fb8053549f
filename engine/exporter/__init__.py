"""From a checkpoint of another library to a bundle.

This is the only room that reads torch files, always with ``torch.load(weights_only=True)``, or for
V1T's folders with a reader that calls nothing: no code of a file is run, and there is no fallback.
Everything is taken from the file, the vocabularies and ``rotary_emb.omega`` too, whose formula
changed between versions of torch_brain.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from .. import errors, models
from ..bundle import MANIFEST, Bundle, Manifest, Task, sha256_of
from ..capture import Capture
from ..images import STATISTICS
from ..scans import read_scan
from . import _ensemble, _files, _image_models, _torch_brain, _v1t_folder

__all__ = ["TorchModel", "export", "read_training"]

WRAPPERS = ("state_dict", "model")  # what files keep the weights in: Lightning, V1T
SECONDS = ("sequence_length", "latent_step")


@runtime_checkable
class TorchModel(Protocol):
    """A live model, as torch_brain makes them."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return weights and vocabularies by name."""


def export(
    source: str | Path | Mapping[str, Any] | TorchModel | None,
    out: str | Path,
    *,
    family: str | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    training: Mapping[str, Any] | None = None,
    force: bool = False,
    onnx: bool = False,
    capture: Capture | None = None,
    data: Mapping[str, str | Path] | None = None,
    members: Mapping[str, str | Path] | None = None,
) -> Path:
    """Write a bundle from a checkpoint, or of several models, or add an ONNX graph to a bundle.

    Args:
        source: A Lightning checkpoint, a saved state_dict or V1T's output folder (a path), a
            state_dict in memory, or a live model of torch_brain; with ``onnx`` also a bundle. Not
            modified. ``None``: the mean of ``members``.
        out: The folder to make.
        family: Model family; ``None`` tells it by the names of the weights.
        settings: What the weights do not tell, by name: ``sequence_length`` and ``latent_step`` in
            seconds, ``task.NAME`` as ``ID`` or ``ID:KIND``; of image models ``input_shape``,
            ``linear`` and the like. They win over the file's own.
        name: What to call the model; ``None``: after ``out``.
        training: Facts about the training, see :class:`attendrite.bundle.Manifest`.
        force: Replace a bundle that is there.
        onnx: Also write the model as ``graph.onnx``, see docs/onnx.md; needs the package ``onnx``.
        capture: Statistics that are outputs of the graph too.
        data: For image models by mouse the scan of its training, a folder or zip: its statistics
            are kept, by which raw images are scaled and behaviour has a mean.
        members: Of an ensemble of image models, by name: bundles, or sources of bundles. Their
            order is that of the combining weights.

    Returns:
        The folder.

    Raises:
        AttendriteError: Not such a file, a size that cannot be known, weights that are not those
            of the family or not finite, or a folder that exists; for the graph, a package that is
            missing or a statistic that it cannot have.
    """
    if capture is not None and not onnx:
        raise errors.must("capture", "come with onnx", "it alone", "add --onnx")
    if members:
        if family or settings:
            do = "export members by themselves, then give their bundles"
            raise errors.must("members", "come without family and settings", "some", do)
        bundle = _ensembled(source, out, name, _with_scans(training, data), members)
    elif isinstance(source, str | Path) and (Path(source) / MANIFEST).is_file():
        if not onnx or any((family, settings, name, training, data)):
            be = "come with --onnx and nothing that is in it already"
            raise errors.must("a bundle as the source", be, str(source))
        bundle = Bundle.load(source)
    else:
        bundle = _converted(source, out, family, settings, name, _with_scans(training, data))
    models.check_weights(bundle)
    for mouse in data or {}:
        errors.choice("mouse", mouse, bundle.manifest.sessions)
    bundle.save(out, force=force, graph=_graph(bundle, capture) if onnx else None)
    return Path(out)


def _converted(
    source: Any,
    out: str | Path,
    family: str | None,
    settings: Mapping[str, Any] | None,
    name: str | None,
    training: Mapping[str, Any] | None,
) -> Bundle:
    """Return the bundle of a checkpoint."""
    state, hyper, facts = _open(source)
    if family == _ensemble.FAMILY or _ensemble.claims(state, hyper):
        raise _ensemble.without_members(state, hyper)
    layout = _image_models if _image_models.claims(state) else _torch_brain
    weights, vocabularies = layout.split(state)
    if layout is _image_models:
        hyper = _image_models.told(facts) | hyper
    family = family or _family(weights)
    model = models.load(family)
    given = {k: str(v) for k, v in (settings or {}).items()}
    tasks = _tasks(model, weights, hyper, given)
    config = _config(model, weights, hyper, given)
    manifest = Manifest(
        family=family,
        name=name or Path(out).name,
        config=config,
        units=vocabularies.units,
        sessions=vocabularies.sessions,
        tasks=tasks,
        training=_training(training),
        source={**facts, "set": given},
    )
    return Bundle(manifest, weights)


def _ensembled(
    source: Any,
    out: str | Path,
    name: str | None,
    training: Mapping[str, Any],
    members: Mapping[str, str | Path],
) -> Bundle:
    """Return the bundle of an ensemble."""
    state, hyper, facts = ({}, {}, {}) if source is None else _open(source)
    if source is not None and not _ensemble.claims(state, hyper):
        do = "leave the source out: members alone are averaged"
        raise errors.must("a source with members", "be an ensemble of V1T", str(source), do)
    found = {
        member: Bundle.load(where)
        if (Path(where) / MANIFEST).is_file()
        else _converted(where, out, None, None, member, None)
        for member, where in members.items()
    }
    called = name or Path(out).name
    return _ensemble.joined(found, state, hyper, facts, called, _training(training))


def _graph(bundle: Bundle, capture: Capture | None) -> bytes:
    """Return the model as an ONNX file, checked by the rules of the format."""
    if importlib.util.find_spec("onnx") is None:
        raise errors.missing_package("--onnx", "onnx", "onnx")
    from .. import graph

    model = models.load(bundle.manifest.family)(bundle.manifest, bundle.weights)
    plan = (capture or Capture({})).plan(model.sites)
    return graph.build(bundle.manifest, bundle.weights, plan)


def read_training(path: str | Path) -> dict[str, Any]:
    """Read facts about a training from a JSON file.

    Raises:
        AttendriteError: Not a JSON object.
    """
    try:
        table = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise errors.must(str(path), "be JSON", str(error).splitlines()[0]) from None
    if not isinstance(table, dict):
        raise errors.must(str(path), "be a JSON object", type(table).__name__)
    return table


def _open(source: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Return weights and vocabularies by name, hyper-parameters, and facts about the source."""
    if isinstance(source, str | Path):
        path = Path(source)
        if path.is_dir():
            return _v1t_folder.read(path)
        loaded: Any = _files.torch_file(path)
        facts = {"file": path.name, "sha256": sha256_of(path)}
    elif isinstance(source, TorchModel):
        specs = getattr(source, "readout_specs", None) or {}
        hyper = {
            n: getattr(source, n) for n in ("sequence_length", "latent_step") if hasattr(source, n)
        }
        hyper["tasks"] = {n: f"{spec.id}:{spec.type.name.lower()}" for n, spec in specs.items()}
        return dict(source.state_dict()), hyper, {"layout": type(source).__name__}
    else:
        loaded, facts = source, {}
    if not isinstance(loaded, Mapping):
        raise errors.must("the source", "be a checkpoint or a state_dict", type(loaded).__name__)
    wrapped = next((name for name in WRAPPERS if name in loaded), None)
    state = loaded if wrapped is None else loaded[wrapped]
    if not isinstance(state, Mapping):
        raise errors.must(f"{wrapped!r} of the source", "be a dictionary", type(state).__name__)
    hyper = loaded.get("hyper_parameters", {}) if wrapped else {}
    hyper = dict(hyper) if isinstance(hyper, Mapping) else {}
    inner = hyper.get("model")
    return (
        dict(state),
        {**hyper, **(inner if isinstance(inner, Mapping) else {})},
        {**facts, "layout": "state_dict" if wrapped is None else "lightning"},
    )


def _family(weights: Mapping[str, Tensor]) -> str:
    claiming = [name for name in models.families() if models.load(name).claims(weights)]
    if len(claiming) != 1:
        raise errors.must(
            "the source", f"be one of {', '.join(models.families())}",
            " and ".join(claiming) or "none of them by the names of its weights",
            "name it: --family",
        )  # fmt: skip
    return claiming[0]


def _tasks(
    model: type[models.Family],
    weights: Mapping[str, Tensor],
    hyper: Mapping[str, Any],
    given: Mapping[str, str],
) -> tuple[Task, ...]:
    prefix = "task."
    named = {k[len(prefix) :]: v for k, v in given.items() if k.startswith(prefix)}
    known = hyper.get("tasks")
    return model.tasks(weights, {**(known if isinstance(known, Mapping) else {}), **named})


def _config(
    model: type[models.Family],
    weights: Mapping[str, Tensor],
    hyper: Mapping[str, Any],
    given: Mapping[str, str],
) -> dict[str, Any]:
    """Join what the weights tell with what the file or the caller says."""
    sizes, needs = model.sizes(weights), model.needs()
    settings = {name: text for name, text in given.items() if not name.startswith("task.")}
    for name in settings:
        errors.choice("setting", name, [*needs, *sizes, "task.NAME"])
    for name, size in sizes.items():
        said = settings.get(name, hyper.get(name, size))
        if str(said) != str(size):
            raise errors.must(f"{name}", f"be {size}, as the weights have it", said)
    config: dict[str, Any] = {}
    for name, example in needs.items():
        said = settings.get(name, hyper.get(name))
        if said is None:
            raise errors.must(
                name, "be known, and the weights do not tell it", "none",
                f"pass --set {name}={_shown(example)}",
            )  # fmt: skip
        config[name] = _like(example, name, said)
    return config | sizes


def _like(example: Any, name: str, said: Any) -> Any:
    """Return a setting as the kind of value that its example is.

    Raises:
        AttendriteError: It is none.
    """
    text = str(said).strip()
    if isinstance(example, str):
        example = float(example)
    try:
        if isinstance(example, bool):
            return {"true": True, "1": True, "false": False, "0": False}[text.lower()]
        if isinstance(example, list):
            parts = text.strip("[]()").split(",")
            if len(parts) != len(example):
                raise ValueError
            return [_like(one, name, part) for one, part in zip(example, parts, strict=True)]
        value = type(example)(text)
        if value < 0:
            raise ValueError
    except (KeyError, ValueError, OverflowError):
        be = {bool: "true or false", list: f"{len(str(example).split(','))} numbers"}.get(
            type(example), "a number" + (" of seconds" if name in SECONDS else "")
        )
        raise errors.must(
            name, f"be {be}", repr(said), f"for example {name}={_shown(example)}"
        ) from None
    return value


def _shown(example: Any) -> str:
    """Write an example as --set takes it."""
    return ",".join(map(str, example)) if isinstance(example, list) else str(example).lower()


def _with_scans(
    training: Mapping[str, Any] | None, data: Mapping[str, str | Path] | None
) -> dict[str, Any]:
    """Add the statistics of scans to the facts about the training."""
    found = {mouse: read_scan(path).statistics for mouse, path in (data or {}).items()}
    return {**(training or {}), **({STATISTICS: found} if found else {})}


def _training(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads(json.dumps(dict(facts or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise errors.must("facts about the training", "be what JSON can hold", error) from None
    rates = table.get("rates_hz", {})
    if not isinstance(rates, dict) or any(type(r) not in (int, float) for r in rates.values()):
        raise errors.must("training 'rates_hz'", "map unit ids to Hz", type(rates).__name__)
    return table
