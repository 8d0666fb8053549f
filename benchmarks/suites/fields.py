"""Receptive fields from white noise: images made, answered by a model, and added up; one thread.

``fields/ln`` and ``fields/cnn``: the models released with Sensorium (7776 units, images of 36 x 64
pixels), whose files the environment variables ``SENSORIUM_LN`` and ``SENSORIUM_CNN`` name;
``fields/ln_random`` and ``fields/cnn_random`` have random weights of the same shapes where they do
not. ``fields/v1t_float32``: V1T as published (8372 units), random weights.

Ours is a shard of the job that ``attendrite fields`` runs. ``+products`` is what of it cannot be
left out: our compiled products of images with a linear model and of responses with images, on
numbers that are there already. ``torch_addmm`` knows that a linear model is one
matrix (``fields/ln``), ``torch_conv2d`` runs its layers; both make noise with ``torch.rand`` and
add up products of float32 in float64, as we do. ``v1t`` is the published code and its script's
einsum, in evaluation mode and, as the script was published, with dropout (``v1t_dropout``: its
error is what dropout does). ``+rollout`` of ours is asked for V1T's rollout too.

The sums of some units are held against the same in float64; errors are shares of the largest.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import v1t_peer
from attendrite import Bundle, Engine, _core
from attendrite.fields import BLOCK, EngineResponder, FieldSums, Settings, job
from attendrite.images import ImageBatch
from attendrite.kernels import noise_sum
from fma_peak import peak
from image_models import released, sensorium, vit
from peers import join
from timing import Case, Contestant
from torch import Tensor
from torch.nn import functional as F

if TYPE_CHECKING:
    from run import Options

IMAGES = {"ln": 4 * BLOCK, "cnn": BLOCK // 2, "v1t": 8}
SIZES_TRIED = (1, 4, 16, 64)  # images that a peer's model takes at a time: the fastest is timed
SEED, CHECKED = 5, 24  # of the peers' noise; units
TOLERANCE = 1e-5
NOT_LINEAR = re.compile(r"core\..*\.(bias|running_mean)|readout\.[^.]+\.bias")
Sums = tuple[Tensor, Tensor]  # of responses times images, [U, P], and of responses, [U]


def cases(options: Options) -> Iterator[Case]:
    """Yield the cases."""
    if options.wants("fields/peak"):
        yield peak("fields/peak", options.quick)
    for kind, variable in (("ln", "SENSORIUM_LN"), ("cnn", "SENSORIUM_CNN")):
        name = f"fields/{kind}"
        path = None if options.quick else os.environ.get(variable)
        if path is None:
            yield Case(name, 0, "images", skipped={
                "everyone": f"{variable} does not name the released model; see {name}_random"
            })  # fmt: skip
            name += "_random"
        if options.wants(name):
            yield stacked(name, kind == "ln", path, options.quick)
    if options.wants("fields/v1t_float32"):
        yield transformer(options.quick)
    yield Case("fields/v1t_bfloat16", 0, "images", skipped={
        "attendrite": "no executor computes in bfloat16"
    })  # fmt: skip


def stacked(name: str, linear: bool, path: str | None, quick: bool) -> Case:
    """Make a case of a Sensorium baseline."""
    images = 8 if quick else IMAGES["ln" if linear else "cnn"]
    bundle = sensorium(linear, quick) if path is None else released(path)
    loop = (Linear if linear else Loop)(bundle, images)
    case = Case(name, images / 1e6, "images", batch=images, rounds=9,
                share_s=None if quick else 15.0)  # fmt: skip
    peers = (products, torch_addmm) if linear else (torch_conv2d,)
    return join(case, [partial(build, loop) for build in (ours, *peers)])


def transformer(quick: bool) -> Case:
    """Make the case of V1T."""
    images = 2 if quick else IMAGES["v1t"]
    loop = Loop(vit(quick), images, recipe="v1t")
    case = Case("fields/v1t_float32", images / 1e6, "images", batch=images, rounds=9,
                baseline="v1t", share_s=None if quick else 30.0)  # fmt: skip
    builders: list[Any] = [ours, rolled, v1t]
    if not v1t_peer.there():
        builders.remove(v1t)
        reason = f"{v1t_peer.VARIABLE} names no clone of github.com/bryanlimy/V1T"
        case.skipped |= {"v1t": reason, "v1t_dropout": reason}
    return join(case, [partial(build, loop) for build in builders])


class Loop:
    """A model under noise, and what its responses add up to in float64.

    Attributes:
        job: Its first shard, of ``images`` images, is what is timed.
        checked: Units whose sums are.
    """

    def __init__(self, bundle: Bundle, images: int, recipe: str = "default") -> None:
        self.bundle, self.images = bundle, images
        self.mouse = next(iter(bundle.manifest.sessions))
        engine = Engine(bundle, executor="native", threads=1)
        self.job = job(engine, Settings(self.mouse, 2 * images, recipe=recipe))
        self.job.shards = 2
        units = self.job.responder.units
        self.checked = torch.arange(0, units, -(-units // CHECKED))

    @cached_property
    def own(self) -> tuple[Tensor, Tensor]:
        """Images of the shard, ``[N, P]``, and exact responses of the checked units to them."""
        images = self.job.stimuli.images(0, self.images, 1).flatten(1)
        return images, self.exact(images)

    @cached_property
    def reference(self) -> Engine:
        """The model in float64."""
        return Engine(self.bundle, executor="reference", dtype="float64", threads=1)

    def exact(self, images: Tensor) -> Tensor:
        """Return the responses of the checked units to images ``[N, P]``, ``[N, some]``."""
        found = self.reference.run(self.batch(images.double()), batch_size=16).prediction
        return torch.from_numpy(np.asarray(found))[:, self.checked]

    def batch(self, images: Tensor) -> ImageBatch:
        """Return images ``[N, P]`` as a batch, under the condition of the job."""
        seen = images.reshape(-1, *self.job.stimuli.shape).numpy()
        behavior, pupil = (np.zeros((len(seen), n), seen.dtype) for n in (3, 2))
        return ImageBatch(seen, self.mouse, behavior, pupil, cropped=True, shift=False)

    def contestant(
        self, name: str, call: Callable[[], Sums], added: Tensor, responses: Tensor, *packages: str
    ) -> Contestant:
        """Make a contestant.

        Args:
            name: Of the row.
            call: Returns the sums.
            added: What the responses are multiplied with, ``[N, P]``.
            responses: Exact ones of the checked units, ``[N, some]``.
            packages: Whose versions the row states.
        """
        true = responses.T @ added.double(), responses.sum(0)

        def error(found: Sums) -> float:
            pairs = zip(found, true, strict=True)
            return max(largest(x[self.checked].double(), y) for x, y in pairs)

        return Contestant(name, call, error, TOLERANCE, "float32", 1, one_thread,
                          ("torch", *packages))  # fmt: skip


class Linear(Loop):
    """A linear-nonlinear model, whose responses are ``elu(W x + b) + 1``."""

    @cached_property
    def rows(self) -> tuple[Tensor, Tensor]:
        """Weights and bias of the checked units, float64: gradients of their drives at 0."""
        model: Any = self.reference.model
        inputs = model.inputs(self.batch(torch.zeros(len(self.checked), self.job.pixels)))
        images = inputs.images.clone().requires_grad_()
        drive = model.drive(inputs, model.core(replace(inputs, images=images), None))
        own = drive.gather(1, self.checked[:, None])[:, 0]
        own.sum().backward()
        assert images.grad is not None
        return images.grad.flatten(1), own.detach()

    @cached_property
    def folded(self) -> tuple[Tensor, Tensor]:
        """Weights and bias of all units, float32: the drives of single pixels without biases."""
        bare = {
            name: torch.zeros_like(weight) if NOT_LINEAR.fullmatch(name) else weight
            for name, weight in self.bundle.weights.items()
        }
        with torch.inference_mode():
            pixels = torch.eye(self.job.pixels).split(64)
            found = [self.drive(bare, some) for some in pixels]
            bias = self.drive(self.bundle.weights, torch.zeros(1, self.job.pixels))[0]
            return torch.cat(found).T.contiguous(), bias.contiguous()

    def drive(self, weights: Mapping[str, Tensor], images: Tensor) -> Tensor:
        """Return what goes into the nonlinearity, ``[N, U]``, float32."""
        bundle = Bundle(self.bundle.manifest, weights)
        model: Any = Engine(bundle, executor="reference", threads=1).model
        inputs = model.inputs(self.batch(images))
        found: Tensor = model.drive(inputs, model.core(inputs, None))
        return found

    def exact(self, images: Tensor) -> Tensor:
        """Return the responses of the checked units, ``[N, some]``."""
        weights, bias = self.rows
        return F.elu(images.double() @ weights.T + bias) + 1


def ours(loop: Loop) -> Contestant:
    """A shard."""
    return loop.contestant("attendrite:native", partial(shard, loop.job), *loop.own, "numba")


def rolled(loop: Loop) -> Contestant:
    """A shard whose model is asked for the rollout too."""
    responder = Rolling(**vars(loop.job.responder))
    job_ = FieldSums(responder, loop.job.stimuli)
    job_.shards = loop.job.shards
    first = loop.batch(loop.own[0][:1].double())
    heat = torch.from_numpy(loop.reference.run(first, rollout="max").rollout)
    plain = loop.contestant("attendrite:native+rollout", partial(shard, job_), *loop.own, "numba")

    def error(found: Sums) -> float:
        return max(plain.error(found), largest(responder.maps[:1], heat))

    return replace(plain, error=error)


class Rolling(EngineResponder):
    """Keeps the rollouts of the images that it was given last, ``maps [N, rows, columns]``."""

    maps: Tensor

    def responses(self, images: Tensor) -> Tensor:
        """Run images through the model."""
        assert self._engine is not None
        behavior, pupil = (np.zeros((len(images), n), np.float32) for n in (3, 2))  # the recipe's
        batch = ImageBatch(images.numpy(), self.mouse, behavior, pupil, cropped=True, shift=False)
        found = self._engine.run(batch, batch_size=self.batch_size, rollout="max")
        self.maps = torch.from_numpy(found.rollout)
        return torch.from_numpy(np.ascontiguousarray(found.prediction))


def products(loop: Linear) -> Contestant:
    """The two products of each block alone, of numbers that are there."""
    weights, bias = (x.numpy() for x in loop.folded)
    images = loop.own[0]
    units, pixels = weights.shape
    model = _core.Affine(weights.reshape(units, *loop.job.stimuli.shape), bias)
    responses = torch.empty(min(BLOCK, len(images)), units)
    sums = noise_sum.Sums.zeros(units, pixels)

    def call() -> Sums:
        for block in images.split(len(responses)):
            model.run(block.data_ptr(), len(block), responses.data_ptr(), 1)
            noise_sum.noise_sum(responses[: len(block)], block, sums)
        return sums.products, sums.responses

    def prepare() -> None:
        one_thread()
        for total in sums.tensors:
            total.zero_()

    found = loop.contestant("attendrite:native+products", call, *loop.own)
    return replace(found, prepare=prepare)


def torch_addmm(loop: Linear) -> Contestant:
    """A linear model as one matrix."""
    weights, bias = loop.folded
    return by_torch(
        "torch_addmm", loop, lambda x: F.elu(torch.addmm(bias, x, weights.T), inplace=True).add_(1)
    )


def torch_conv2d(loop: Loop) -> Contestant:
    """The layers of the model one after the other."""
    engine = Engine(loop.bundle, executor="reference", threads=1)

    def respond(images: Tensor, size: int) -> Tensor:
        found = engine.run(loop.batch(images), batch_size=size).prediction
        return torch.from_numpy(np.asarray(found))

    size = fastest(respond, loop.own[0])
    return by_torch("torch_conv2d", loop, partial(respond, size=size))


def by_torch(name: str, loop: Loop, respond: Callable[[Tensor], Tensor]) -> Contestant:
    """Make noise in blocks, add products up in float32 and blocks in float64."""
    units, pixels = loop.job.responder.units, loop.job.pixels
    blocks = [min(BLOCK, loop.images - first) for first in range(0, loop.images, BLOCK)]

    def noise() -> Iterator[Tensor]:
        random = torch.Generator().manual_seed(SEED)
        for n in blocks:
            yield torch.rand(n, pixels, generator=random).sub_(0.5).mul_(12**0.5)

    @torch.inference_mode()
    def call() -> Sums:
        products = torch.zeros(units, pixels, dtype=torch.float64)
        sums, squares = torch.zeros(2, units, dtype=torch.float64)
        block = torch.empty(units, pixels)
        for images in noise():
            responses = respond(images)
            products += torch.addmm(block, responses.T, images, beta=0, out=block)
            sums += responses.sum(0)
            squares += responses.square().sum(0)
        return products, sums

    images = torch.cat(list(noise()))
    return loop.contestant(name, call, images, loop.exact(images))


def v1t(loop: Loop) -> list[Contestant]:
    """The published code, as its script runs it, without dropout and with."""
    model = v1t_peer.Published(loop.bundle.manifest.config, loop.bundle.weights, loop.mouse)

    def noise() -> tuple[Tensor, Tensor]:
        random = torch.Generator().manual_seed(SEED)
        raw = torch.rand(loop.images, *loop.job.stimuli.shape, generator=random)
        return raw, (raw - raw.mean()) / raw.std()

    @torch.inference_mode()
    def respond(images: Tensor, size: int) -> Tensor:
        return torch.cat([model.responses(part) for part in images.split(size)])

    @torch.inference_mode()
    def call() -> Sums:
        raw, images = noise()
        responses = respond(images, size)
        return torch.einsum("bn,bchw->nchw", responses, raw).flatten(1), responses.sum(0)

    def prepare(on: bool) -> None:
        one_thread()
        model.train(on)

    raw, images = noise()
    model.train(False)
    size = fastest(respond, images)
    still = loop.contestant("v1t", call, raw.flatten(1), loop.exact(images.flatten(1)), "einops")
    still.prepare = partial(prepare, False)
    dropping = replace(still, name="v1t_dropout", tolerance=None, prepare=partial(prepare, True))
    return [still, dropping]


def shard(job_: FieldSums) -> Sums:
    """Run the first shard."""
    found = job_.run(0)
    return torch.from_numpy(found["products"]), torch.from_numpy(found["responses"])


def fastest(respond: Callable[[Tensor, int], Any], images: Tensor) -> int:
    """Return how many images at a time a model takes fastest, one thread."""
    one_thread()
    costs = {}
    for size in (s for s in SIZES_TRIED if s <= len(images)):
        respond(images[:size], size)
        start = time.perf_counter()
        respond(images[:size], size)
        costs[size] = (time.perf_counter() - start) / size
    return min(costs, key=lambda size: costs[size])


def one_thread() -> None:
    """Hold torch at one thread."""
    torch.set_num_threads(1)


def largest(found: Tensor, true: Tensor) -> float:
    """Return the largest deviation as a share of the largest value."""
    return float((found - true).abs().max() / true.abs().max())
