"""From a checkpoint of another library to a bundle.

This is the only module that reads torch files, always with ``torch.load(weights_only=True)``: no
code of the file is run, and there is no fallback. Everything is taken from the file, the
vocabularies and ``rotary_emb.omega`` too, whose formula changed between versions of torch_brain.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from . import errors, models
from .bundle import MANIFEST, Bundle, Manifest, Task, check_vocabulary, sha256_of
from .capture import Capture

OLDEST_TORCH = (2, 10)  # CVE-2026-24747: weights_only could be bypassed before
NO_ID = "NA"  # torch_brain's name of row 0, the padding

# Names of the code before torch_brain ("kirby") and theirs now.
PREFIXES = {"perceiver_io.": "", "spike_type_emb.": "token_type_emb."}


@runtime_checkable
class TorchModel(Protocol):
    """A live model, as torch_brain makes them."""

    def state_dict(self) -> Mapping[str, Any]:
        """Return weights and vocabularies by name."""


def export(
    source: str | Path | Mapping[str, Any] | TorchModel,
    out: str | Path,
    *,
    family: str | None = None,
    settings: Mapping[str, Any] | None = None,
    name: str | None = None,
    training: Mapping[str, Any] | None = None,
    force: bool = False,
    onnx: bool = False,
    capture: Capture | None = None,
) -> Path:
    """Write a bundle from a checkpoint, or add an ONNX graph to a bundle.

    Args:
        source: A Lightning checkpoint or a saved state_dict (a path), a state_dict in memory, or a
            live model of torch_brain; with ``onnx`` also a bundle. Not modified.
        out: The folder to make.
        family: Model family; ``None`` tells it by the names of the weights.
        settings: What the weights do not tell, by name: ``sequence_length`` and ``latent_step`` in
            seconds, ``task.NAME`` as ``ID`` or ``ID:KIND``. They win over the file's own.
        name: What to call the model; ``None``: after ``out``.
        training: Facts about the training, see :class:`attendrite.bundle.Manifest`.
        force: Replace a bundle that is there.
        onnx: Also write the model as ``graph.onnx``, see docs/onnx.md; needs the package ``onnx``.
        capture: Statistics that are outputs of the graph too.

    Returns:
        The folder.

    Raises:
        AttendriteError: Not such a file, a size that cannot be known, weights that are not those
            of the family or not finite, or a folder that exists; for the graph, a package that is
            missing or a statistic that it cannot have.
    """
    if capture is not None and not onnx:
        raise errors.must("capture", "come with onnx", "it alone", "add --onnx")
    if isinstance(source, str | Path) and (Path(source) / MANIFEST).is_file():
        if not onnx or any((family, settings, name, training)):
            be = "come with --onnx and nothing that is in it already"
            raise errors.must("a bundle as the source", be, str(source))
        bundle = Bundle.load(source)
    else:
        bundle = _converted(source, out, family, settings, name, training)
    models.check_weights(bundle)
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
    weights, vocabularies = _split(_renamed(state))
    family = family or _family(weights)
    model = models.load(family)
    given = {k: str(v) for k, v in (settings or {}).items()}
    tasks = _tasks(model, weights, hyper, given)
    config = _config(model, weights, hyper, given)
    manifest = Manifest(
        family=family,
        name=name or Path(out).name,
        config=config,
        units=vocabularies["unit"],
        sessions=vocabularies["session"],
        tasks=tasks,
        training=_training(training),
        source={**facts, "set": given},
    )
    return Bundle(manifest, weights)


def _graph(bundle: Bundle, capture: Capture | None) -> bytes:
    """Return the model as an ONNX file, checked by the rules of the format."""
    if importlib.util.find_spec("onnx") is None:
        raise errors.missing_package("--onnx", "onnx", "onnx")
    from . import graph

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
        loaded = _torch_load(Path(source))
        facts = {"file": Path(source).name, "sha256": sha256_of(source)}
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
    state = loaded.get("state_dict", loaded)
    if not isinstance(state, Mapping):
        raise errors.must("'state_dict' of the source", "be a dictionary", type(state).__name__)
    hyper = loaded.get("hyper_parameters", {}) if state is not loaded else {}
    hyper = dict(hyper) if isinstance(hyper, Mapping) else {}
    inner = hyper.get("model")
    layout = "state_dict" if state is loaded else "lightning"
    return (
        dict(state),
        {**hyper, **(inner if isinstance(inner, Mapping) else {})},
        {**facts, "layout": layout},
    )


def _torch_load(path: Path) -> Any:
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


def _renamed(state: Mapping[str, Any]) -> dict[str, Any]:
    """Take the common prefix off and bring earlier names to those of today."""
    ends = [str(n)[: -len("unit_emb.weight")] for n in state if str(n).endswith("unit_emb.weight")]
    if len(ends) != 1:
        raise errors.must(
            "the source", "hold one 'unit_emb.weight'", f"{len(ends)} among {len(state)} names",
            f"known families: {', '.join(models.families())}",
        )  # fmt: skip
    out: dict[str, Any] = {}
    for name, value in state.items():
        if not isinstance(name, str) or not name.startswith(ends[0]):
            raise errors.must("every name of the source", f"begin with {ends[0]!r}", repr(name))
        new = name[len(ends[0]) :]
        for old, now in PREFIXES.items():
            new = now + new[len(old) :] if new.startswith(old) else new
        if new in out:
            raise errors.must("names of the source", "be distinct", f"{new!r} twice")
        out[new] = value
    return out


def _split(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], dict[str, dict[str, int]]]:
    """Return weights, and the vocabularies of units and sessions."""
    vocabularies = {}
    for what in ("unit", "session"):
        vocabulary = state.get(f"{what}_emb.vocab")
        if not isinstance(vocabulary, Mapping):
            raise errors.must(
                "the source", f"hold the vocabulary {what}_emb.vocab", type(vocabulary).__name__,
                "save model.state_dict() of a torch_brain model with initialised vocabularies",
            )  # fmt: skip
        rows = {name: row for name, row in vocabulary.items() if (name, row) != (NO_ID, 0)}
        check_vocabulary(what, rows)
        vocabularies[what] = rows
    weights = {}
    for name, value in state.items():
        if name in ("unit_emb.vocab", "session_emb.vocab"):
            continue
        if not isinstance(value, Tensor) or not value.is_floating_point():
            got = value.dtype if isinstance(value, Tensor) else type(value).__name__
            raise errors.must(f"{name!r} of the source", "be a floating tensor", got)
        weights[name] = value
    return weights, vocabularies


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
                f"pass --set {name}={example}",
            )  # fmt: skip
        try:
            config[name] = float(said)
        except (TypeError, ValueError):
            raise errors.must(name, "be a number of seconds", repr(said)) from None
    return config | sizes


def _training(facts: Mapping[str, Any] | None) -> dict[str, Any]:
    try:
        table: dict[str, Any] = json.loads(json.dumps(dict(facts or {}), allow_nan=False))
    except (TypeError, ValueError) as error:
        raise errors.must("facts about the training", "be what JSON can hold", error) from None
    rates = table.get("rates_hz", {})
    if not isinstance(rates, dict) or any(type(r) not in (int, float) for r in rates.values()):
        raise errors.must("training 'rates_hz'", "map unit ids to Hz", type(rates).__name__)
    return table
