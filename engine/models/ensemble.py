"""Several models of the same mice as one, as in V1T's ``ensemble.py``.

Source: the code of V1T (Li et al. 2023, arXiv:2302.03023; commit 6599bf6). What is combined is not
the members' responses but what their nonlinearities would make responses of: by the mean (mode 0),
by weights and an offset (1), or by those of each mouse (2). ELU + 1 follows, once. Each member
crops, moves and resizes the images by itself.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from .. import errors, models
from ..bundle import MANIFEST, Manifest
from ..images import ImageBatch
from ._site import Attend, Inputs, Shapes
from ._vision import ImageFamily, ImageInputs, ImageModel, checked, mice

PREFIX = "ensemble."  # of weights, with the name of the member
LINEAR = "output_module.linear"
UNREAD = "output_module.activation.one"
MEAN, WEIGHTED, BY_MOUSE = range(3)  # modes
EXAMPLES: Mapping[str, Any] = {"mode": MEAN, "input_shape": [1, 144, 256]}
NAME = re.compile(r"[\w-]+")


@dataclass(frozen=True)
class EnsembleInputs(Inputs):
    """Tensors of a batch; keys and queries are those of the first member.

    Attributes:
        mouse: Whose neurons respond.
        members: What each member makes of the batch.
    """

    mouse: str
    members: Mapping[str, ImageInputs]


class Model(ImageFamily):
    """An ensemble with its weights; see :class:`attendrite.models.Family`.

    Sites are those of the members, in their order; here they are called ``MEMBER.block.0``.

    Attributes:
        members: By name.
    """

    def __init__(self, manifest: Manifest, weights: Mapping[str, Tensor]) -> None:
        self.manifest, self.weights, self.config = manifest, weights, dict(manifest.config)
        self.members: dict[str, ImageModel] = {
            name: _family(part)(part, _inside(weights, name))
            for name, part in _parts(manifest).items()
        }
        for name, member in self.members.items():
            renamed = (replace(site, name=f"{name}.{site.name}") for site in member.sites)
            member.sites = tuple(renamed)
            self.sites += member.sites

    @classmethod
    def claims(cls, names: Collection[str]) -> bool:
        """Say whether weights of these names are an ensemble's."""
        return any(name.startswith(PREFIX) for name in names)

    @classmethod
    def sizes(cls, weights: Mapping[str, Tensor]) -> dict[str, Any]:
        """Infer the mode."""
        if f"{LINEAR}.weight" in weights:
            return {"mode": WEIGHTED}
        return {"mode": BY_MOUSE if any(n.startswith(f"{LINEAR}.") for n in weights) else MEAN}

    @classmethod
    def needs(cls) -> Mapping[str, Any]:
        """Name nothing: members are exported by themselves."""
        return {}

    @classmethod
    def shapes(cls, manifest: Manifest, weights: Mapping[str, Tensor]) -> Shapes:
        """Return the shape that every tensor must have.

        Raises:
            AttendriteError: Members of other images or other neurons, or no members.
        """
        parts, mode = _parts(manifest), manifest.config["mode"]
        out: Shapes = {}
        counts: dict[str, tuple[str, int]] = {}
        for name, part in parts.items():
            family = _family(part)
            found = family.shapes(part, _inside(weights, name))
            out |= {f"{PREFIX}{name}.{weight}": shape for weight, shape in found.items()}
            for mouse in part.sessions:
                (count,) = found[f"{family.names.readout.format(mouse)}.bias"]
                first, known = counts.setdefault(mouse, (name, count))
                if count != known:
                    what, be = f"neurons of mouse {mouse!r} in member {name!r}", f"be {known}"
                    raise errors.must(what, f"{be} as in {first!r}", count)
        linear = {WEIGHTED: [LINEAR], BY_MOUSE: [f"{LINEAR}.{mouse}" for mouse in mice(manifest)]}
        for name in linear.get(mode, ()):
            out |= {f"{name}.weight": (1, len(parts)), f"{name}.bias": (1,)}
        return out | ({UNREAD: ()} if UNREAD in weights else {})

    @property
    def covariates(self) -> tuple[str, ...]:
        """Name which of behaviour and pupil the members read."""
        read = {name for member in self.members.values() for name in member.covariates}
        return tuple(sorted(read))  # behaviour first

    @property
    def core_shape(self) -> tuple[int, int, int]:
        """Channels, rows and columns of the image that all cores see, before covariates.

        Raises:
            AttendriteError: They see images of different sizes, or different parts of them.
        """
        seen = {
            name: (member.core_shape, member.config.get("center_crop", 1.0))
            for name, member in self.members.items()
        }
        first, *others = seen
        for name in others:
            if seen[name] != seen[first]:
                (be, part), (got, of) = seen[first], seen[name]
                raise errors.must(
                    f"what the core of member {name!r} sees",
                    f"be {list(be)} pixels, {part} of the image, as in {first!r}",
                    f"{list(got)}, {of}", "give whole images, or take one member",
                )  # fmt: skip
        return seen[first][0]

    def n_units(self, mouse: str) -> int:
        """Number of neurons of a mouse."""
        return next(iter(self.members.values())).n_units(mouse)

    def inputs(self, batch: ImageBatch) -> EnsembleInputs:
        """Turn a checked batch into tensors, for each member its own.

        Raises:
            AttendriteError: As a member, or images that are cropped and not alike for all cores.
        """
        if batch.cropped:
            errors.shape("images", batch.images, ["B", *self.core_shape])
        members = {name: member.inputs(batch) for name, member in self.members.items()}
        first = next(iter(members.values()))
        return EnsembleInputs(first.keys, first.queries, batch.mouse, members)

    def forward(self, inputs: EnsembleInputs, attend: Attend) -> Tensor:
        """Return the responses, ``[B, U]``: a rate, 0 at least."""
        drives = [
            member.driven(inputs.members[name], attend) for name, member in self.members.items()
        ]
        return F.elu(self.combined(torch.stack(drives, -1), inputs.mouse)) + 1

    def combined(self, drives: Tensor, mouse: str) -> Tensor:
        """Return one drive, ``[B, U]``, for those of the members, ``[B, U, k]``."""
        if self.config["mode"] == MEAN:
            return drives.mean(-1)
        name = LINEAR if self.config["mode"] == WEIGHTED else f"{LINEAR}.{mouse}"
        return F.linear(drives, *(self.weights[f"{name}.{p}"] for p in ("weight", "bias")))[..., 0]


def _parts(manifest: Manifest) -> dict[str, Manifest]:
    """Return the manifest of each member: its family and configuration, the mice of all.

    Raises:
        AttendriteError: There is none, or one is no model of such images.
    """
    config = checked(manifest, EXAMPLES)
    errors.choice("mode of an ensemble", config["mode"], (MEAN, WEIGHTED, BY_MOUSE))
    table = config.get("members")
    if not isinstance(table, dict) or not table:
        be = "be an object of one member or more"
        raise errors.must(f"members of {MANIFEST}", be, repr(table))
    parts = {}
    for name, entry in table.items():
        if not NAME.fullmatch(name):
            raise errors.must("a member's name", "have letters, digits, - and _ alone", repr(name))
        if not isinstance(entry, dict) or not isinstance(entry.get("family"), str):
            got = type(entry).__name__
            raise errors.must(f"member {name!r} of {MANIFEST}", "be an object with a family", got)
        parts[name] = replace(manifest, family=entry["family"], config=entry, files={})
        check_member(name, parts[name])
        shape = entry.get("input_shape")
        if shape != config["input_shape"]:
            be = f"be {config['input_shape']}, the images of all members"
            raise errors.must(f"input_shape of member {name!r}", be, shape)
    return parts


def check_member(name: str, manifest: Manifest) -> None:
    """Refuse a member that is no model of images, or several.

    Raises:
        AttendriteError: It is not.
    """
    if not issubclass(models.load(manifest.family), ImageModel):
        got = f"a {manifest.family} model"
        raise errors.must(f"member {name!r}", "be one model of images", got)


def _family(part: Manifest) -> Any:
    """Return the class of a member that was checked."""
    return models.load(part.family)


def _inside(weights: Mapping[str, Tensor], name: str) -> dict[str, Tensor]:
    """Return the weights of a member, by its own names."""
    prefix = f"{PREFIX}{name}."
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
