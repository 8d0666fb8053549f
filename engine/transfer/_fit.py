"""The fit of a read-out by gradient.

With responses ``t`` scaled by their precision, rates ``r = ELU(drive) + 1``, ``M`` training trials
and batches of ``B``, Adam lowers

    sqrt(M / B) sum(r + eps - (t + eps) log(r + eps)) + 0.0076 sum|weights|,    eps = 2^-23:

Poisson's negative log-likelihood, the factor and the L1 norm of the weights of features as in the
code of V1T (commit 6599bf6: losses.py, readout/gaussian2d.py) and of sensorium (commit c433fed:
training/trainers.py). As there, a neuron's place is drawn for each image, ``mu + sigma z`` with z
normal, cut to -1..1 and then moved by the shifter; the means serve validation and afterwards. The
single-trial correlation of the validation trials, mean over the neurons whose responses vary
there, decides: after five epochs that are not better, the best weights come back and the rate is
multiplied by 0.3; the third time ends the fit.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from ..evaluation.responses import single_trial_correlation
from ..models._vision import ImageModel
from ..runtime import Engine
from ._search import search
from ._trials import TRAIN, VALIDATION, Floats, Trials, varying

RATE, LOWERED, REDUCTIONS = 0.005, 0.3, 2  # of learning
PATIENCE, EPOCHS, BATCH = 5, 200, 32
L1 = 0.0076
EPS = float(np.finfo(np.float32).eps)

Doubles = NDArray[np.float64]
Weights = dict[str, Tensor]
Curve = list[dict[str, float | None]]
"""By epoch, what the search found first: mean ``loss`` of the training batches (``None``: not
trained yet), mean correlation of ``validation``, ``rate`` of learning."""


class Fit:
    """Fits of the read-out of one mouse.

    Args:
        engine: A model that knows the mouse.
        mouse: Whose read-out it is.
        trials: Of its scan.
        progress: Show bars.
    """

    def __init__(self, engine: Engine, mouse: str, trials: Trials, progress: bool) -> None:
        model: Any = engine.model  # an ImageModel, as it has trials
        self.model: ImageModel = model
        self.mouse, self.trials, self.progress = mouse, trials, progress
        names = self.model.names
        readout, self.shifter = names.readout.format(mouse), names.shifter.format(mouse)
        self.mu, self.sigma = f"{readout}._mu", f"{readout}.sigma"
        self.features, self.bias = f"{readout}.{names.features}", f"{readout}.bias"
        self.pupil = None if trials.pupil is None else self.model.tensor(trials.pupil)

    def run(self, targets: Floats, seed: int) -> tuple[Weights, Curve]:
        """Return the weights of the mouse, and the curve.

        Args:
            targets: Responses to fit, ``[T, N]``, perhaps shuffled.
            seed: Of the shifter, the order of trials and the places drawn.
        """
        random = torch.Generator().manual_seed(seed)  # of the CPU, wherever the model is
        weights = self._begun(targets[self.trials.rows[TRAIN]], random)
        model = self._model(weights)
        adam = torch.optim.Adam([t.requires_grad_() for t in weights.values()], lr=RATE)
        validation = self.trials.rows[VALIDATION]
        best, highest, waited, reductions = weights, -math.inf, 0, 0
        loss: float | None = None
        curve: Curve = []
        for _ in tqdm(range(EPOCHS + 1), unit="epoch", disable=None if self.progress else True):
            predicted = self._predicted(model, validation)
            found = float(np.nanmean(_scores(targets[validation], predicted)))
            rate = adam.param_groups[0]["lr"]
            curve.append({"loss": loss, "validation": found, "rate": rate})
            waited += 1
            if found > highest:
                highest, waited = found, 0
                best = {name: t.detach().clone() for name, t in weights.items()}
            elif waited == PATIENCE:
                if reductions == REDUCTIONS:
                    break
                reductions, waited = reductions + 1, 0
                adam.param_groups[0]["lr"] = rate * LOWERED
                with torch.no_grad():
                    for name, tensor in weights.items():
                        tensor.copy_(best[name])
            loss = self._epoch(model, weights, targets, adam, random)
        return best, curve

    def correlation(self, weights: Weights) -> dict[str, Doubles]:
        """Return the scores of each neuron in the tiers not trained on; see :func:`_scores`."""
        model, targets = self._model(weights), self.trials.targets
        return {
            tier: _scores(targets[rows], self._predicted(model, rows))
            for tier, rows in self.trials.rows.items()
            if tier != TRAIN
        }

    def _begun(self, targets: Floats, random: torch.Generator) -> Weights:
        """Return weights to begin with: what the search finds, a shifter that does not move yet."""
        like = self.model.weights[self.bias]
        start = search(self.trials.features, targets, like)
        out = {
            self.mu: start.mu[None, :, None],
            self.sigma: torch.diag(start.apart).repeat(1, len(start.mu), 1, 1),
            self.features: start.features[None, :, None],
            self.bias: start.bias,
        }
        layers = [n for n in self.model.weights if n.startswith(f"{self.shifter}.mlp.")]
        for name in sorted(layers):
            shape = self.model.weights[name].shape
            bound = 0.0 if ".mlp.4." in name else shape[-1] ** -0.5
            out[name] = ((2 * torch.rand(shape, generator=random) - 1) * bound).to(like)
        return out

    def _model(self, weights: Weights) -> ImageModel:
        """Return the model with such weights of the mouse, which may change in place."""
        family: type[ImageModel] = type(self.model)
        return family(self.model.manifest, {**self.model.weights, **weights})

    def _epoch(
        self, model: ImageModel, weights: Weights, targets: Floats, adam: torch.optim.Adam,
        random: torch.Generator,
    ) -> float:  # fmt: skip
        """Take a step for each batch of the training trials; return their mean loss."""
        count, total = self.trials.rows[TRAIN].stop, 0.0
        mu, sigma = weights[self.mu], weights[self.sigma]
        order = torch.randperm(count, generator=random).numpy()
        for at in range(0, count, BATCH):
            rows = order[at : at + BATCH]
            drawn = torch.randn(len(rows), mu.shape[1], 2, generator=random).to(mu)
            where = (mu[:, :, 0] + torch.einsum("ncd,bnd->bnc", sigma[0], drawn)).clamp(-1, 1)
            r, t = self._rates(model, rows, where) + EPS, model.tensor(targets[rows]) + EPS
            loss = math.sqrt(count / len(rows)) * (r - t * r.log()).sum()
            loss = loss + L1 * weights[self.features].abs().sum()
            adam.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            adam.step()
            with torch.no_grad():
                mu.clamp_(-1, 1)
            total += loss.item() * len(rows) / count
        return total

    def _predicted(self, model: ImageModel, tier: slice) -> Floats:
        """Return the rates of a tier's trials, places at their means, ``[n, N]``."""
        rows = np.arange(tier.start, tier.stop)
        with torch.no_grad():
            where = model.positions(self.mouse)
            parts = [
                self._rates(model, rows[at : at + BATCH], where).cpu().numpy()
                for at in range(0, len(rows), BATCH)
            ]
        return np.concatenate(parts)

    def _rates(self, model: ImageModel, rows: NDArray[np.int64], where: Tensor) -> Tensor:
        features = model.tensor(self.trials.features[rows]).permute(0, 3, 1, 2).contiguous()
        pupil = None if self.pupil is None else self.pupil[torch.from_numpy(rows)]
        return F.elu(model.drive(replace(self.trials.inputs, pupil=pupil), features, where)) + 1


def _scores(targets: Floats, predicted: Floats) -> Doubles:
    """Return the single-trial correlation of each neuron; NaN where its responses do not vary."""
    return np.where(varying(targets), single_trial_correlation(targets, predicted), np.nan)
