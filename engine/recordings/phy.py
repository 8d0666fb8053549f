"""Kilosort and phy output folders, with numpy alone.

``spike_times.npy`` holds sample numbers and ``spike_clusters.npy`` one cluster per spike (before
curation ``spike_templates.npy`` does); both are mapped, not read, until the spikes are asked for.
``params.py`` is a Python file: its literals are read, it is never executed.

Layout: https://phy.readthedocs.io, https://kilosort.readthedocs.io/en/latest/export_files.html.
"""

from __future__ import annotations

import ast
import csv
import re
import warnings
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import errors
from ._arrays import map_npy
from ._recording import Recording, Spikes

FORMAT = "Kilosort or phy folder (params.py, spike_times.npy)"
UNSORTED = "unsorted"
LONGEST_LINE = 10_000  # characters of a line of params.py or of a table
LARGEST_CLUSTER = 1 << 24  # a table of this length maps cluster numbers to units

_ASSIGNMENT = re.compile(r"^\s*([A-Za-z_]\w*)\s*=\s*(.+?)\s*$")


def claims(path: Path) -> bool:
    """Say whether the path is a folder with ``params.py`` or ``spike_times.npy``."""
    return path.is_dir() and any((path / n).is_file() for n in ("params.py", "spike_times.npy"))


def read(
    path: Path, *, labels: Sequence[str] = ("good",), sample_rate: float | None = None
) -> Recording:
    """Read a Kilosort or phy folder.

    A cluster's label is that of ``cluster_group.tsv``; where that has none (nobody looked at the
    cluster, or the file is absent) that of ``cluster_KSLabel.tsv``; else ``"unsorted"``.

    Args:
        path: The folder.
        labels: Labels to keep; ``("good",)`` unless said otherwise. Empty: every cluster.
        sample_rate: Samples per second; ``None`` takes it from ``params.py``.

    Returns:
        The recording: unit ids are cluster numbers; unit columns ``label`` and, where templates
        and channel positions are there, ``position`` [U, 2] um: the channel with the largest
        template. The domain runs from sample 0 to the end of the raw file that ``params.py``
        names, where that is there, else to the last spike of any cluster.

    Raises:
        AttendriteError: A file is absent, damaged or contradicts another; no cluster has a label
            asked for.
    """
    labels = (labels,) if isinstance(labels, str) else labels
    params = _params(path / "params.py")
    rate = _rate(params.get("sample_rate") if sample_rate is None else sample_rate)
    samples = _vector(path / "spike_times.npy", "the sample numbers of the spikes")
    clusters = _vector(_clusters_file(path), "one cluster number per spike")
    if len(clusters) != len(samples):
        raise errors.must(
            "spike_clusters.npy", f"have one entry for each of {len(samples)} spikes", len(clusters)
        )
    present = _present(clusters)
    label = _labels(path)
    kept = [c for c in present if not labels or label.get(c, UNSORTED) in labels]
    if labels and present and not kept:
        raise _no_unit(labels, [label.get(c, UNSORTED) for c in present])
    columns: dict[str, NDArray[Any]] = {
        "label": np.array([label.get(c, UNSORTED) for c in kept], "U")
    }
    position = _positions(path, kept, clusters)
    if position is not None:
        columns["position"] = position
    last = float(samples[-1]) / rate if len(samples) else 0.0
    return Recording(
        session=path.resolve().name,
        unit_ids=tuple(map(str, kept)),
        load_spikes=partial(_spikes, samples, clusters, np.array(kept, np.int64), rate),
        domain=(0.0, max(last, _raw_duration(path, params, rate))),
        unit_columns=columns,
        source=str(path),
    )


def _rate(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < np.inf:
        raise errors.must(
            "sample_rate in params.py", "be a positive number", value, "or pass sample_rate=..."
        )
    return float(value)


def _spikes(
    samples: NDArray[Any], clusters: NDArray[Any], kept: NDArray[np.int64], rate: float
) -> Spikes:
    unit_of = np.full(int(clusters.max(initial=0)) + 1, -1, np.int32)
    unit_of[kept] = np.arange(len(kept), dtype=np.int32)
    units = unit_of[clusters]
    chosen = units >= 0
    if not chosen.all():
        samples, units = samples[chosen], units[chosen]
    # Divided, not multiplied by 1 / rate: sample / rate rounds once.
    return Spikes(np.asarray(samples, np.float64) / rate, units)


def _vector(path: Path, meaning: str) -> NDArray[Any]:
    if not path.is_file():
        raise errors.must(str(path.parent), f"hold {path.name}, {meaning}", "no such file")
    values = map_npy(path)
    if values.ndim == 2 and 1 in values.shape:  # MATLAB writes [n, 1]
        values = values.reshape(-1)
    if values.ndim != 1 or values.dtype.kind not in "iu":
        raise errors.must(
            path.name, f"hold {meaning}, integers [n]", f"{values.dtype} {values.shape}"
        )
    return values


def _clusters_file(path: Path) -> Path:
    curated = path / "spike_clusters.npy"
    templates = path / "spike_templates.npy"
    return templates if templates.is_file() and not curated.is_file() else curated


def _present(clusters: NDArray[Any]) -> list[int]:
    """Cluster numbers that have spikes, in order."""
    if not len(clusters):
        return []
    low, high = int(clusters.min()), int(clusters.max())
    if low < 0 or high >= LARGEST_CLUSTER:
        raise errors.must(
            "cluster numbers", f"lie in 0..{LARGEST_CLUSTER - 1}", low if low < 0 else high
        )
    seen = np.zeros(high + 1, bool)
    seen[clusters] = True
    return [int(c) for c in np.flatnonzero(seen)]


def _no_unit(labels: Sequence[str], found: list[str]) -> errors.AttendriteError:
    counts = ", ".join(f"{found.count(name)} {name}" for name in sorted(set(found)))
    return errors.must("labels", f"match a cluster (this folder has {counts})", ", ".join(labels))


def _labels(path: Path) -> dict[int, str]:
    labels = _table(path / "cluster_KSLabel.tsv", ("KSLabel",))
    # Kilosort copies its own labels into cluster_group.tsv under the heading KSLabel.
    curated = _table(path / "cluster_group.tsv", ("group", "KSLabel"))
    labels.update({c: label for c, label in curated.items() if label not in ("", UNSORTED)})
    return labels


def _table(path: Path, names: tuple[str, ...]) -> dict[int, str]:
    """One column of a tab-separated table, by cluster number; empty where there is no such file."""
    if not path.is_file():
        return {}
    found: dict[int, str] = {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = csv.reader(stream, delimiter="\t")
            header = next(rows, [])
            name = next((n for n in names if n in header), None)
            if "cluster_id" not in header or name is None:
                raise errors.must(
                    f"the heading of {path.name}", f"name cluster_id and {names[0]}", header[:8]
                )
            key, value = header.index("cluster_id"), header.index(name)
            for row in rows:
                if row:
                    found[int(row[key])] = row[value].strip()
    except (csv.Error, UnicodeDecodeError, IndexError) as error:
        raise errors.must(path.name, "be a table with one cluster a line", str(error)) from error
    except ValueError as error:
        if isinstance(error, errors.AttendriteError):
            raise
        raise errors.must(
            f"{path.name} line {rows.line_num}", "begin with a cluster number", str(error)[:200]
        ) from error
    return found


def _params(path: Path) -> dict[str, Any]:
    """Assignments of literals in a Python file, read line by line; all else is passed over."""
    if not path.is_file():
        return {}
    values: dict[str, Any] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _ASSIGNMENT.match(line) if len(line) <= LONGEST_LINE else None
        if match:
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # unescaped backslashes in Windows paths
                    values[match[1]] = ast.literal_eval(match[2])
            except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                continue
    return values


def _raw_duration(path: Path, params: dict[str, Any], rate: float) -> float:
    """Length of the raw recording, seconds; 0 where params.py or the file does not say."""
    files = params.get("dat_path")
    channels, offset = params.get("n_channels_dat"), params.get("offset", 0)
    try:
        item = np.dtype(params["dtype"]).itemsize
        names = [files] if isinstance(files, str) else list(files or [])
        sizes = [(path / name).stat().st_size - int(offset) for name in names]
        return sum(max(size, 0) // (item * int(channels)) for size in sizes) / rate  # type: ignore[arg-type]
    except (KeyError, TypeError, ValueError, OSError, ZeroDivisionError, OverflowError):
        return 0.0


def _positions(path: Path, kept: list[int], clusters: NDArray[Any]) -> NDArray[np.float64] | None:
    """Position of the channel with the largest template of each cluster, ``[U, 2]``, um."""
    files = [path / name for name in ("templates.npy", "channel_positions.npy")]
    if not all(file.is_file() for file in files):
        return None
    templates, channels = map(map_npy, files)
    if templates.ndim != 3 or templates.dtype.kind != "f" or 0 in templates.shape[1:]:
        raise errors.must(
            "templates.npy",
            "hold floats [templates, samples, channels]",
            f"{templates.dtype} {templates.shape}",
        )
    if channels.shape[1:] != (2,) or channels.dtype.kind not in "iuf":
        raise errors.must(
            "channel_positions.npy",
            "hold numbers [channels, 2]",
            f"{channels.dtype} {channels.shape}",
        )
    channel_of = _template_channels(path, templates)
    positions = np.full((len(kept), 2), np.nan)
    for row, template in enumerate(_main_templates(path, kept, clusters, len(templates))):
        if template >= 0:
            with np.errstate(invalid="ignore", over="ignore"):  # templates of no spikes hold NaN
                waveforms = np.nan_to_num(np.asarray(templates[template], np.float64))
                channel = int(channel_of[template, np.argmax(np.ptp(waveforms, axis=0))])
            if 0 <= channel < len(channels):
                positions[row] = channels[channel]
    return positions


def _template_channels(path: Path, templates: NDArray[Any]) -> NDArray[Any]:
    """Channel of each column of each template, ``[templates, columns]``."""
    sparse = path / "template_ind.npy"
    if not sparse.is_file():
        return np.broadcast_to(np.arange(templates.shape[2]), (len(templates), templates.shape[2]))
    indices = map_npy(sparse)
    errors.shape("template_ind.npy", indices, [len(templates), templates.shape[2]])
    if indices.dtype.kind not in "iuf":
        raise errors.must("template_ind.npy", "hold channel numbers", indices.dtype)
    channels: NDArray[Any] = np.nan_to_num(indices, nan=-1, posinf=-1, neginf=-1)
    return channels


def _main_templates(
    path: Path, kept: list[int], clusters: NDArray[Any], n_templates: int
) -> list[int]:
    """The template that most spikes of each cluster came from; -1 where nothing says.

    Sorting numbers clusters as their templates; a cluster made by hand, by merging or splitting,
    has a number beyond them and is traced through ``spike_templates.npy``.
    """
    made = [c for c in kept if c >= n_templates]
    origin = path / "spike_templates.npy"
    main = {c: c for c in kept if c < n_templates}
    if made and n_templates and origin.is_file():
        templates = _vector(origin, "one template number per spike")
        errors.shape("spike_templates.npy", templates, [len(clusters)])
        row_of = np.full(int(clusters.max()) + 1, -1)
        row_of[made] = np.arange(len(made))
        rows = row_of[clusters]
        chosen = (rows >= 0) & (templates >= 0) & (templates < n_templates)
        pairs = rows[chosen] * n_templates + templates[chosen].astype(np.int64)
        counts = np.bincount(pairs, minlength=len(made) * n_templates).reshape(-1, n_templates)
        main.update((c, int(np.argmax(counts[i]))) for i, c in enumerate(made) if counts[i].any())
    return [main.get(c, -1) for c in kept]
