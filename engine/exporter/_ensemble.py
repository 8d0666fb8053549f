"""Ensembles: models of the same mice, and what combines their outputs.

V1T's ``ensemble.py`` saves ``output_module`` alone, and nothing at all where outputs are averaged;
its ``args.yaml`` names the members, sorted, and where they lay. So members and, for the weights
that combine them, their order are given by the caller; no path of the file is followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .. import errors
from ..bundle import Bundle, Manifest
from ..images import STATISTICS
from ..models.ensemble import PREFIX, Model, check_member
from . import _image_models
from ._v1t_folder import MODE

FAMILY = "ensemble"
MEMBERS = "saved_models"  # among the arguments


def claims(state: Mapping[str, Any], hyper: Mapping[str, Any]) -> bool:
    """Say whether a source is an ensemble's."""
    return MODE in hyper or Model.claims([str(name) for name in state])


def without_members(state: Mapping[str, Any], hyper: Mapping[str, Any]) -> errors.AttendriteError:
    """Build the error for an ensemble whose members are not given."""
    names = _names(state, hyper) or ["NAME"]
    give = " ".join(f"--member {name}=FOLDER" for name in names)
    unsorted = hyper.get(MODE) != 0 and not Model.claims([str(name) for name in state])
    order = ", in the order of ensemble.py" if unsorted else ""
    return errors.must("an ensemble", "come with its members", "none", f"pass {give}{order}")


def joined(
    members: Mapping[str, Bundle],
    state: Mapping[str, Any],
    hyper: Mapping[str, Any],
    facts: Mapping[str, Any],
    name: str,
    training: Mapping[str, Any],
) -> Bundle:
    """Return the bundle of an ensemble.

    Args:
        members: By name, in the order of the combining weights.
        state: What the ensemble's own checkpoint holds, if it has one: combining weights, and maybe
            weights of members, which then win and whose order counts.
        hyper: The ensemble's arguments.
        facts: About the source.
        name: What to call it.
        training: Facts about the training; of mice without statistics, those of members are kept.

    Raises:
        AttendriteError: Other members than the ensemble has, a mode without its weights, or members
            of other mice, neurons or statistics.
    """
    names = _names(state, hyper) or list(members)
    if set(names) != set(members):
        raise errors.must("members", f"be {', '.join(names)}", ", ".join(members))
    if Model.claims([str(n) for n in state]):
        members = {n: members[n] for n in names}
    own, _ = _image_models.split(state)
    mode = Model.sizes(own)["mode"]
    if hyper.get(MODE, mode) != mode:
        be = f"have the weights of {MODE} {hyper[MODE]}"
        raise errors.must("the ensemble", be, f"those of {mode}", "give one that was trained")
    weights: dict[str, Tensor] = {}
    first = next(iter(members))
    manifest = members[first].manifest
    for member, bundle in members.items():
        check_member(member, bundle.manifest)
        _check_same(member, bundle.manifest, first, manifest)
        weights |= {f"{PREFIX}{member}.{k}": v for k, v in bundle.weights.items()}
    found = _statistics(members, training)
    training = {**training, **({STATISTICS: found} if found else {})}
    return Bundle(
        Manifest(
            family=FAMILY,
            name=name,
            config={
                "mode": mode,
                "input_shape": manifest.config["input_shape"],
                "members": {
                    n: {"family": b.manifest.family, **b.manifest.config}
                    for n, b in members.items()
                },
            },
            units=manifest.units,
            sessions=manifest.sessions,
            training=training,
            source={**facts, "members": {n: _told(b.manifest) for n, b in members.items()}},
        ),
        weights | own,
    )


def _names(state: Mapping[str, Any], hyper: Mapping[str, Any]) -> list[str]:
    """Name the members, as far as the source does; in their order where it holds weights."""
    found = [str(n).split(".")[1] for n in state if str(n).startswith(PREFIX)]
    listed = hyper.get(MEMBERS)
    return list(dict.fromkeys(found or (map(str, listed) if isinstance(listed, dict) else ())))


def _check_same(name: str, found: Manifest, first: str, known: Manifest) -> None:
    for what in ("sessions", "units"):
        odd = sorted(set(getattr(found, what)) ^ set(getattr(known, what)))
        if odd:
            called = {"sessions": "mice", "units": "neurons"}[what]
            be, got = f"be those of member {first!r}", f"{odd[0]!r} in one of them alone"
            raise errors.must(f"{called} of member {name!r}", be, got)


def _statistics(members: Mapping[str, Bundle], training: Mapping[str, Any]) -> dict[str, Any]:
    """Return the statistics of the training data by mouse.

    Those in ``training`` win; of other mice those of the members that have them, which must agree.
    """
    given = _by_mouse("the training", training)
    found: dict[str, tuple[str, Any]] = {}
    for name, bundle in members.items():
        for mouse, entry in _by_mouse(f"member {name!r}", bundle.manifest.training).items():
            first, known = found.setdefault(mouse, (name, entry))
            if entry != known and mouse not in given:
                be = f"be those of member {first!r}, as all get the same images"
                got, do = f"others of mouse {mouse!r}", f"pass --data {mouse}=SCAN"
                raise errors.must(f"statistics of member {name!r}", be, got, do)
    return {mouse: entry for mouse, (_, entry) in found.items()} | given


def _by_mouse(whose: str, training: Mapping[str, Any]) -> dict[str, Any]:
    table: dict[str, Any] = training.get(STATISTICS, {})
    if not isinstance(table, dict):
        raise errors.must(f"statistics of {whose}", "be an object by mouse", type(table).__name__)
    return table


def _told(manifest: Manifest) -> dict[str, Any]:
    return {"name": manifest.name, "source": manifest.source, "training": manifest.training}
