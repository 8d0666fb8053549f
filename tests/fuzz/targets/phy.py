"""Kilosort and phy folders."""

from __future__ import annotations

from pathlib import Path

import attendrite.recordings
import numpy as np


def seeds(folder: Path) -> list[Path]:
    sorted_, curated = folder / "kilosort", folder / "phy"
    rng = np.random.default_rng(0)
    for path in (sorted_, curated):
        path.mkdir(parents=True)
        samples = np.sort(rng.integers(0, 60_000, 80))
        np.save(path / "spike_times.npy", samples[:, None].astype(np.uint64))
        np.save(path / "spike_templates.npy", rng.integers(0, 4, 80).astype(np.uint32)[:, None])
        np.save(path / "templates.npy", rng.normal(size=(4, 5, 3)).astype(np.float32))
        np.save(path / "channel_positions.npy", np.array([[0.0, 0.0], [0.0, 20.0], [0.0, 40.0]]))
        (path / "cluster_KSLabel.tsv").write_text(
            "cluster_id\tKSLabel\n0\tgood\n1\tmua\n2\tgood\n3\tgood\n"
        )
        (path / "params.py").write_text(
            "dat_path = 'raw.dat'\nn_channels_dat = 3\ndtype = 'int16'\noffset = 0\n"
            "sample_rate = 30000.\nhp_filtered = False\n"
        )
    clusters = rng.integers(2, 7, 80).astype(np.int32)
    np.save(curated / "spike_clusters.npy", clusters)
    np.save(curated / "template_ind.npy", np.tile(np.arange(3), (4, 1)))
    (curated / "cluster_group.tsv").write_text("cluster_id\tgroup\n2\tgood\n3\tnoise\n5\tgood\n")
    return [sorted_, curated]


def read(path: Path) -> None:
    attendrite.recordings.read(path).summary()
