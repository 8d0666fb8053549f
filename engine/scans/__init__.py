"""Static scans: images shown to one animal, and what its neurons did.

A scan is a folder in the layout of the Sensorium 2022 data (Willeke et al. 2022, arXiv 2206.08666),
which V1T (Li et al. 2023, arXiv 2302.03023) and Franke et al. 2022 use too:

| path | holds |
|---|---|
| ``data/images/<trial>.npy`` | ``[c, h, w]`` |
| ``data/responses/<trial>.npy`` | ``[N]`` |
| ``data/behavior/<trial>.npy`` | ``[3]``: dilation, its derivative, running speed |
| ``data/pupil_center/<trial>.npy`` | ``[2]``: x, y |
| ``meta/neurons/unit_ids.npy``, ``animal_ids.npy`` | ``[N]`` |
| ``meta/neurons/cell_motor_coordinates.npy`` | ``[N, 2 or 3]``, um |
| ``meta/trials/tiers.npy``, ``trial_idx.npy`` | ``[T]`` |
| ``meta/trials/frame_image_id.npy`` | ``[T]``; of Franke ``colorframeprojector_image_id.npy`` |
| ``meta/statistics/<what>/all/mean.npy``, ``std.npy`` | one number for images, else one each |

Behaviour and pupil may be missing together with their statistics. Other files are passed over.
"""

from __future__ import annotations

from ._read import read_scan
from ._scan import Moments, Preprocessing, Scan

__all__ = ["Moments", "Preprocessing", "Scan", "read_scan"]
