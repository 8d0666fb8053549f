"""Kilosort and phy folders: labels, sampling rate, positions, and what is refused."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
from attendrite.errors import AttendriteError
from hypothesis import given
from hypothesis import strategies as st

SAMPLES = np.array([3, 30, 30, 300, 3000, 30000], np.uint64)
CLUSTERS = np.array([0, 2, 0, 5, 2, 0], np.int32)
PARAMS = (
    "dat_path = 'raw.dat'\nn_channels_dat = 4\ndtype = 'int16'\noffset = 0\nsample_rate = 3000.\n"
)


def folder(
    path: Path,
    samples: Any = SAMPLES,
    clusters: Any = CLUSTERS,
    params: str = PARAMS,
    group: str | None = "cluster_id\tgroup\n0\tgood\n2\tnoise\n5\tgood\n",
    ks: str | None = None,
) -> Path:
    path.mkdir(exist_ok=True)
    np.save(path / "spike_times.npy", samples)
    np.save(path / "spike_clusters.npy", clusters)
    (path / "params.py").write_text(params)
    for name, text in (("cluster_group", group), ("cluster_KSLabel", ks)):
        if text is not None:
            (path / f"{name}.tsv").write_text(text)
    return path


def test_good_units_in_seconds(tmp_path: Path) -> None:
    one = attendrite.read(folder(tmp_path / "day1"))
    assert one.session == "day1"
    assert one.unit_ids == ("0", "5")
    np.testing.assert_array_equal(one.spikes.times, np.array([3, 30, 300, 30000]) / 3000)
    np.testing.assert_array_equal(one.spikes.units, [0, 0, 1, 0])
    np.testing.assert_array_equal(one.unit_columns["label"], ["good", "good"])
    assert one.domain == (0.0, 10.0)


def test_labels_choose_clusters(tmp_path: Path) -> None:
    path = folder(tmp_path, group="cluster_id\tgroup\n0\tgood\n2\tnoise\n")
    assert attendrite.read(path, labels=()).unit_ids == ("0", "2", "5")
    assert attendrite.read(path, labels="noise").unit_ids == ("2",)
    assert attendrite.read(path, labels=("noise", "unsorted")).unit_ids == ("2", "5")
    with pytest.raises(
        AttendriteError,
        match=re.escape("match a cluster (this folder has 1 good, 1 noise, 1 unsorted), got mua"),
    ):
        attendrite.read(path, labels=("mua",))


def test_kilosorts_label_serves_where_nobody_looked(tmp_path: Path) -> None:
    ks = "cluster_id\tKSLabel\n0\tgood\n2\tgood\n5\tmua\n7\tgood\n"
    only = folder(tmp_path / "a", group=None, ks=ks)
    assert attendrite.read(only).unit_ids == ("0", "2")
    looked = folder(tmp_path / "b", group="cluster_id\tgroup\n0\tnoise\n5\tunsorted\n", ks=ks)
    assert attendrite.read(looked).unit_ids == ("2",)
    assert attendrite.read(looked, labels=("mua",)).unit_ids == ("5",)
    copied = folder(tmp_path / "c", group=ks, ks=ks)  # as Kilosort leaves it
    assert attendrite.read(copied, labels=("mua",)).unit_ids == ("5",)


def test_templates_serve_before_curation(tmp_path: Path) -> None:
    path = folder(tmp_path, group=None)
    (path / "spike_clusters.npy").rename(path / "spike_templates.npy")
    assert attendrite.read(path, labels=()).unit_ids == ("0", "2", "5")


def test_matlab_writes_columns(tmp_path: Path) -> None:
    one = attendrite.read(folder(tmp_path, SAMPLES[:, None], np.asfortranarray(CLUSTERS[:, None])))
    np.testing.assert_array_equal(one.spikes.units, [0, 0, 1, 0])


def test_seconds_are_the_quotient(tmp_path: Path) -> None:
    """A time is sample / rate rounded once, as everybody computes it."""
    samples = np.sort(np.random.default_rng(0).integers(0, 1 << 40, 1000))
    params = "sample_rate = 30000.\n"
    one = attendrite.read(folder(tmp_path, samples, samples * 0, params, group=None), labels=())
    np.testing.assert_array_equal(one.spikes.times, samples / 30000.0)


def test_the_raw_file_gives_the_length(tmp_path: Path) -> None:
    path = folder(tmp_path, params=PARAMS.replace("offset = 0", "offset = 80"))
    (path / "raw.dat").write_bytes(bytes(80 + 2 * 4 * 36000))
    assert attendrite.read(path).domain == (0.0, 12.0)
    (path / "raw.dat").write_bytes(b"")  # shorter than the spikes: they count
    assert attendrite.read(path).domain == (0.0, 10.0)


def test_params_are_read_and_never_executed(tmp_path: Path) -> None:
    mark = tmp_path / "executed"
    params = (
        f"import pathlib\npathlib.Path({str(mark)!r}).touch()\n"
        "dat_path = 'C:\\Users\\new\\raw.dat'\n"
        f"offset = pathlib.Path({str(mark)!r}).touch()\n"
        "sample_rate = 3000.0  # Hz\n"
    )
    one = attendrite.read(folder(tmp_path / "day", params=params))
    assert one.spikes.times[-1] == 10.0
    assert not mark.exists()


def test_the_sampling_rate_can_be_given(tmp_path: Path) -> None:
    path = folder(tmp_path, params="")
    assert attendrite.read(path, sample_rate=300).spikes.times[-1] == 100.0
    with pytest.raises(
        AttendriteError, match=r"sample_rate in params\.py must be a positive number"
    ):
        attendrite.read(path)


def test_positions_are_of_the_largest_channel(tmp_path: Path) -> None:
    path = folder(tmp_path)
    templates = np.zeros((6, 5, 3), np.float32)
    templates[0, 2] = [0.1, -3.0, 1.0]
    templates[5, :, 2] = [1, 1, 1, 1, 2]
    np.save(path / "templates.npy", templates)
    np.save(path / "channel_positions.npy", np.array([[0, 0], [0, 20], [16, 40]]))
    one = attendrite.read(path)
    np.testing.assert_array_equal(one.unit_columns["position"], [[0, 20], [16, 40]])
    np.save(path / "template_ind.npy", np.tile([2, 0, 1], (6, 1)))  # sparse templates
    one = attendrite.read(path)
    np.testing.assert_array_equal(one.unit_columns["position"], [[0, 0], [0, 20]])


def test_a_merged_cluster_has_the_position_of_most_of_its_spikes(tmp_path: Path) -> None:
    path = folder(tmp_path, clusters=np.array([7, 7, 7, 0, 0, 8]), group=None)
    np.save(path / "spike_templates.npy", np.array([1, 1, 0, 0, 0, 9]))
    templates = np.zeros((2, 4, 2), np.float32)
    templates[0, 0, 0] = templates[1, 0, 1] = 1
    np.save(path / "templates.npy", templates)
    np.save(path / "channel_positions.npy", np.array([[0.0, 0.0], [0.0, 20.0]]))
    one = attendrite.read(path, labels=())
    assert one.unit_ids == ("0", "7", "8")
    np.testing.assert_array_equal(one.unit_columns["position"], [[0, 0], [0, 20], [np.nan, np.nan]])


def test_an_empty_sorting_is_a_recording(tmp_path: Path) -> None:
    one = attendrite.read(folder(tmp_path, SAMPLES[:0], CLUSTERS[:0]))
    assert one.unit_ids == ()
    assert len(one.spikes.times) == 0


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 9)), max_size=100))
def test_every_spike_of_a_kept_cluster_comes_back(
    tmp_path_factory: pytest.TempPathFactory, spikes: list[tuple[int, int]]
) -> None:
    samples = np.array(sorted(s for s, _ in spikes), np.int64)
    clusters = np.array([c for _, c in spikes], np.int64)
    group = "cluster_id\tgroup\n" + "".join(f"{c}\tgood\n" for c in range(0, 10, 2))
    path = folder(tmp_path_factory.mktemp("phy"), samples, clusters, "sample_rate = 10\n", group)
    if len(spikes) and not any(c % 2 == 0 for c in clusters):
        with pytest.raises(AttendriteError, match="labels must match a cluster"):
            attendrite.read(path)
        return
    one = attendrite.read(path)
    for row, unit in enumerate(one.unit_ids):
        np.testing.assert_array_equal(
            one.spikes.times[one.spikes.units == row], samples[clusters == int(unit)] / 10
        )
    assert len(one.spikes.times) == np.sum(clusters % 2 == 0)


BAD: list[tuple[dict[str, Any], str]] = [
    ({"samples": SAMPLES[::-1].copy()}, "spike times must be sorted, got"),
    ({"samples": np.array([-3, 0, 1, 2, 3, 4])}, "must lie in the domain 0.0 to"),
    ({"samples": SAMPLES.astype(float)}, "integers [n], got float64 (6,)"),
    ({"samples": SAMPLES.reshape(2, 3)}, "integers [n], got uint64 (2, 3)"),
    (
        {"clusters": CLUSTERS[:4]},
        "spike_clusters.npy must have one entry for each of 6 spikes, got 4",
    ),
    ({"clusters": CLUSTERS - 1}, "cluster numbers must lie in 0..16777215, got -1"),
    ({"clusters": CLUSTERS.astype(np.int64) << 40}, "cluster numbers must lie in 0..16777215"),
    ({"params": "sample_rate = 0\n"}, "sample_rate in params.py must be a positive number, got 0"),
    ({"params": "sample_rate = '30000'\n"}, "must be a positive number, got 30000; or pass"),
    ({"params": "sample_rate = 1e999\n"}, "must be a positive number, got inf"),
    ({"params": "sample_rate = True\n"}, "must be a positive number, got True"),
    (
        {"group": "cluster\tgroup\n0\tgood\n"},
        "the heading of cluster_group.tsv must name cluster_id",
    ),
    (
        {"group": "cluster_id\tgroup\nx\tgood\n"},
        "cluster_group.tsv line 2 must begin with a cluster",
    ),
    (
        {"group": "cluster_id\tgroup\n0\n"},
        "cluster_group.tsv must be a table with one cluster a line",
    ),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_faults_are_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    path = folder(tmp_path, **change)
    with pytest.raises(AttendriteError, match=re.escape(message)):
        _ = attendrite.read(path).spikes


def test_absent_and_damaged_files_are_named(tmp_path: Path) -> None:
    path = folder(tmp_path / "day")
    data = (path / "spike_times.npy").read_bytes()
    (path / "spike_times.npy").write_bytes(data[:-1])
    with pytest.raises(
        AttendriteError, match=r"spike_times\.npy must hold 48 bytes of data, got 47"
    ):
        attendrite.read(path)
    (path / "spike_times.npy").write_bytes(b"")
    with pytest.raises(AttendriteError, match=r"spike_times\.npy must be in \.npy format, got"):
        attendrite.read(path)
    (path / "spike_times.npy").unlink()
    with pytest.raises(AttendriteError, match=r"must hold spike_times\.npy, the sample numbers"):
        attendrite.read(path)


def test_wrong_template_files_are_named(tmp_path: Path) -> None:
    path = folder(tmp_path)
    np.save(path / "templates.npy", np.zeros((6, 5)))
    np.save(path / "channel_positions.npy", np.zeros((3, 2)))
    with pytest.raises(
        AttendriteError, match=r"templates\.npy must hold floats \[templates, samples"
    ):
        attendrite.read(path)
    np.save(path / "templates.npy", np.zeros((6, 5, 3)))
    np.save(path / "channel_positions.npy", np.zeros((3, 3)))
    with pytest.raises(
        AttendriteError, match=r"channel_positions\.npy must hold numbers \[channels, 2"
    ):
        attendrite.read(path)
