"""Receptive fields of image models from white noise: any number of images, in fixed memory.

The way of the data: :class:`Stimuli` are numbered images, noise by counter or a user's array, as
standardised as the model wants them; a :class:`Responder` is a model under one fixed condition that
turns images into responses; :class:`FieldSums` is the job in shards that adds up responses times
images; :class:`Fields` are what the sums say of each unit. :func:`receptive_fields` does all of it;
docs/fields.md is the user's page.

With ``s`` the noise in units of its standard deviation and ``r`` the responses of a unit to ``N``
images, its field is

    f = mean(r s) - mean(r) mean(s),

the weights of the best linear prediction of ``r`` from white noise, in response per standard
deviation of a pixel. The known moments of the noise are used, not those of the sample. Where a
pixel says nothing of the response, ``f`` has the standard error ``sd(r) / sqrt(N)``, which makes z.
Even and odd shards are two halves, independent of each other: the correlation of their fields over
pixels is the reliability, and their product over the variance of ``r`` is the share of the variance
that the linear field explains, without the bias of a field that is scored on its own noise
(:mod:`.statistics`).

Cost of an image with ``P`` pixels and ``U`` units: the model, ``2 U P`` operations for the sums,
and two dozen operations per pixel for the noise. Memory of a worker: the model, ``8 U P`` bytes of
sums and a block of ``BLOCK`` images and responses; of merging: twice ``8 U P``. Disk: ``8 U P`` for
each shard. Error: products are float32 over at most ``BLOCK`` images, sums float64, 1e-5 of the
noise that a field has at a million images (:mod:`attendrite.kernels.noise_sum`).
"""

from __future__ import annotations

from ._fields import Fields, Settings, gathered, job, receptive_fields
from .responder import EngineResponder, Responder
from .significance import Screen
from .stimuli import ImageFile, Noise, Stimuli
from .sums import BLOCK, FieldSums, Halves

__all__ = [
    "BLOCK",
    "EngineResponder",
    "FieldSums",
    "Fields",
    "Halves",
    "ImageFile",
    "Noise",
    "Responder",
    "Screen",
    "Settings",
    "Stimuli",
    "gathered",
    "job",
    "receptive_fields",
]
