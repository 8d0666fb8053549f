"""V1T's own core and read-out (Li et al. 2023, arXiv:2302.03023), from a clone of its repository.

It is no package: the environment variable ``V1T_SOURCE`` names a clone of github.com/bryanlimy/V1T,
commit 6599bf6. Of it the modules of core and read-out are imported, which need torch and einops,
and not the packages above them, which need its trackers of experiments.
"""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

VARIABLE = "V1T_SOURCE"
DROPOUTS = {"p_dropout": 0.0229, "t_dropout": 0.2544}  # of patches and blocks, as published
PACKAGES = ("v1t", "v1t.models", "v1t.models.core", "v1t.models.readout")
ZEROS = {"behaviors": 3, "pupil_centers": 2}


def there() -> bool:
    """Say whether the variable names a clone."""
    return (Path(os.environ.get(VARIABLE, "/")) / "src/v1t/models/core/vit.py").is_file()


class Published:
    """The model as the published script for receptive fields runs it.

    Args:
        config: Of our bundle.
        weights: Of our bundle, which are named as theirs.
        mouse: Whose neurons respond.

    Raises:
        ImportError: einops is not installed.
    """

    def __init__(
        self, config: Mapping[str, Any], weights: Mapping[str, Tensor], mouse: str
    ) -> None:
        core, readout = _modules()
        mine = {
            part: {
                name.removeprefix(part): value
                for name, value in weights.items()
                if name.startswith(part)
            }
            for part in ("core.", f"readouts.{mouse}.")
        }
        of_core, of_readout = mine.values()
        units = of_readout["bias"].shape
        args = SimpleNamespace(
            **config, **DROPOUTS, core_reg_scale=0.0, drop_path=0.0, disable_bias=False,
            output_shapes={mouse: units}, grad_checkpointing=False, verbose=0,
            device=torch.device("cpu"), disable_grid_predictor=False, bias_mode=0,
            grid_predictor_dim=of_readout["source_grid"].shape[1], readout_reg_scale=0.0,
        )  # fmt: skip
        channels = config["input_shape"][0]
        self.core = core.ViTCore(args, input_shape=(channels, 36, 64))
        dataset = SimpleNamespace(
            coordinates=of_readout["source_grid"].numpy(),
            response_stats={"mean": of_readout["bias"].numpy()},
        )
        self.readout = readout.Gaussian2DReadout(
            args, input_shape=self.core.output_shape, output_shape=units,
            ds=SimpleNamespace(dataset=dataset),
        )  # fmt: skip
        self.core.load_state_dict(of_core, strict=False)  # what is missing is read by training
        self.readout.load_state_dict(of_readout, strict=False)
        self._mouse = mouse

    def train(self, on: bool) -> None:
        """Switch dropout and the sampling of positions on, or off."""
        self.core.train(on)
        self.readout.train(on)

    def responses(self, images: Tensor) -> Tensor:
        """Return responses ``[B, U]`` to images ``[B, c, 36, 64]``; behaviour and pupil are 0."""
        zeros = {name: torch.zeros(len(images), size) for name, size in ZEROS.items()}
        return F.elu(self.readout(self.core(images, mouse_id=self._mouse, **zeros))) + 1


def _modules() -> tuple[ModuleType, ModuleType]:
    """Import the modules of core and read-out, their packages being empty."""
    source = Path(os.environ[VARIABLE]) / "src"
    for name in PACKAGES:
        if name not in sys.modules:
            package = ModuleType(name)
            package.__path__ = [str(source / name.replace(".", "/"))]
            sys.modules[name] = package
    return (
        importlib.import_module("v1t.models.core.vit"),
        importlib.import_module("v1t.models.readout.gaussian2d"),
    )
