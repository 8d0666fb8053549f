"""A read-out for a new animal, fitted to its scan while the core of an image model stays as it is.

A core trained on other animals serves one with little data (Lurz et al. 2021,
doi:10.1101/2020.10.05.326256; Willeke et al. 2022, arXiv:2206.08666; Li et al. 2023,
arXiv:2302.03023). Fitted are, for each neuron, the mean ``mu`` and the 2 x 2 factor ``sigma`` of
the Gaussian that its place is drawn from, its weights of the core's features and its bias, and for
the animal a shifter where the other mice have one; see :mod:`._fit` for the loss and
:mod:`._search` for where it begins. The core runs in evaluation mode, once for each trial.

Unlike in the sources, places are free and not predicted from where neurons lie in cortex.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .. import errors, models
from ..bundle import MANIFEST, Bundle, Manifest
from ..files import check_folder
from ..images import STATISTICS
from ..models._vision import ImageModel
from ..models.v1t import BY_MOUSE, CROPPER
from ..runtime import Engine, torch_threads
from ..scans import Scan
from ._fit import Curve, Doubles, Fit
from ._trials import Trials

__all__ = ["TRANSFERS", "Transferred", "transfer"]

TRANSFERS = "transfers"  # by mouse, in a manifest's facts about the training


@dataclass(frozen=True, eq=False)
class Transferred:
    """What a transfer gave.

    Attributes:
        bundle: As written, with one more mouse.
        correlation: By tier, ``validation`` and where its responses are public ``test``: the
            single-trial correlation of each neuron, ``[N]``; NaN where its responses do not vary.
            Validation trials chose when to stop, test trials chose nothing.
        shuffled: The same of a read-out fitted to shuffled responses; ``None`` if not asked.
        curve: See :data:`._fit.Curve`.
    """

    bundle: Bundle
    correlation: Mapping[str, Doubles]
    shuffled: Mapping[str, Doubles] | None
    curve: Curve


def transfer(
    bundle: str | Path | Bundle,
    scan: Scan,
    mouse: str,
    out: str | Path,
    *,
    seed: int = 0,
    control: bool = False,
    force: bool = False,
    device: str = "cpu",
    threads: int | None = None,
    progress: bool = False,
) -> Transferred:
    """Fit a read-out to a scan and write a bundle with one more mouse.

    The core, and everything of the other mice, is written as it was; an ONNX graph is left out.

    Args:
        bundle: A model of the family ``v1t`` or ``sensorium``; not modified.
        scan: With training and validation trials. Its own statistics scale images, behaviour,
            pupils and responses.
        mouse: What to call its animal. Its neurons are in the order of ``scan.unit_ids``.
        out: Folder of the new bundle; it appears whole or not at all. Features that are too large
            for memory (see :mod:`._trials`) need room beside it.
        seed: Of the shifter, the order of trials and the places drawn. The same seed on the same
            machine gives the same bytes.
        control: Also fit to responses shuffled among trials, for each neuron by itself.
        force: Replace a bundle that is there.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
        threads: On the CPU; ``None``: as many as torch is set to use.
        progress: Show bars on stderr when it is a terminal.

    Raises:
        AttendriteError: The model knows the mouse, is none of images or has networks of each mouse
            inside its core; the scan has no training or validation trials, images of another size
            or responses that are negative or constant in all neurons, or lacks behaviour or pupil
            that the model reads; ``out`` exists; a negative seed.
    """
    bundle = bundle if isinstance(bundle, Bundle) else Bundle.load(bundle)
    out = Path(out)
    check_folder(out, replace=force, mark=MANIFEST, what="a bundle")
    if seed < 0:
        raise errors.must("seed", "be at least 0", seed)
    start = _widened(bundle, scan, mouse)
    engine = Engine(start, device=device, threads=threads)
    with torch_threads(threads):
        trials = Trials(engine, scan, mouse, out.absolute().parent, progress)
        fit = Fit(engine, mouse, trials, progress)
        weights, curve = fit.run(trials.targets, seed)
        found, shuffled = fit.correlation(weights), None
        if control:
            shuffled = fit.correlation(fit.run(trials.shuffled(seed), seed)[0])
    facts = {
        "scan": scan.session,
        "trials": {tier: rows.stop - rows.start for tier, rows in trials.rows.items()},
        "correlation": _means(found),
        "shuffled": None if shuffled is None else _means(shuffled),
        "seed": seed,
        "curve": curve,
        "versions": engine.versions,
    }
    fitted = {name: t.cpu().to(start.weights[name].dtype) for name, t in weights.items()}
    done = Bundle(_told(start.manifest, scan, mouse, facts), {**start.weights, **fitted})
    done.save(out, force=force)
    return Transferred(done, found, shuffled, curve)


def _widened(bundle: Bundle, scan: Scan, mouse: str) -> Bundle:
    """Return the bundle with one more mouse, whose weights are 0.

    Those of a shifter of images stay so: images are cropped by nearest neighbour, through which no
    gradient passes.
    """
    old, weights, count = bundle.manifest, bundle.weights, len(scan.unit_ids)
    family = models.load(old.family)
    if not issubclass(family, ImageModel):
        be = "be one core with read-outs of images"
        raise errors.must("the model", be, f"a {old.family} model")
    models.check_weights(bundle)
    if mouse in old.sessions:
        raise errors.must("the mouse", "be new to the bundle", repr(mouse), "name it otherwise")
    if not re.fullmatch(r"[\w-]+", mouse):
        raise errors.must("a mouse's name", "have letters, digits, - and _ alone", repr(mouse))
    if old.config.get("behavior_mode") == BY_MOUSE:
        todo = "take a model whose mice share their core"
        raise errors.must("the core", "be the same for all mice", "behavior_mode 4", todo)
    names, first = family.names, next(iter(old.sessions))
    own = names.readout.format(mouse)
    like = weights[f"{names.readout.format(first)}.{names.features}"]
    new = {
        f"{own}._mu": like.new_zeros(1, count, 1, 2),
        f"{own}.sigma": like.new_zeros(1, count, 2, 2),
        f"{own}.{names.features}": like.new_zeros(1, like.shape[1], 1, count),
        f"{own}.bias": like.new_zeros(count),
    }
    for network in (names.shifter, CROPPER):
        theirs = f"{network.format(first)}.mlp."
        new |= {
            f"{network.format(mouse)}.mlp.{name.removeprefix(theirs)}": torch.zeros_like(tensor)
            for name, tensor in weights.items()
            if name.startswith(theirs)
        }
    row = max(old.units.values(), default=0) + 1
    units = {**old.units, **{f"{mouse}/{i}": row + i for i in range(count)}}
    sessions = {**old.sessions, mouse: max(old.sessions.values()) + 1}
    name = f"{old.name} + {mouse}"
    manifest = replace(old, name=name, units=units, sessions=sessions, files={})
    return Bundle(manifest, {**weights, **new})


def _told(manifest: Manifest, scan: Scan, mouse: str, facts: Mapping[str, Any]) -> Manifest:
    """Return the manifest with what is known of the mouse's training."""
    training = dict(manifest.training)
    for name, entry in ((STATISTICS, scan.statistics), (TRANSFERS, facts)):
        training[name] = {**training.get(name, {}), mouse: entry}
    return replace(manifest, training=training)


def _means(found: Mapping[str, Doubles]) -> dict[str, float]:
    """Return the mean over the neurons that can be tested."""
    return {tier: float(np.nanmean(r)) for tier, r in found.items()}
