"""Decoding of recordings: which windows are placed, how they are stitched, what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from attendrite.batches import SpikeBatch
from attendrite.bundle import Bundle
from attendrite.decoding import decode
from attendrite.errors import AttendriteError
from attendrite.evaluation import Split
from attendrite.exporter import export
from attendrite.recordings import Recording, Spikes
from attendrite.runtime import Engine
from numpy.typing import NDArray

CHECKPOINT = Path(__file__).parent / "fixtures" / "poyo_tiny" / "poyo_tiny_lightning.ckpt"
LENGTH = 1.0  # s, the window of the bundle


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return Bundle.load(export(CHECKPOINT, tmp_path_factory.mktemp("poyo") / "tiny"))


@pytest.fixture(scope="module")
def engine(bundle: Bundle) -> Engine:
    return Engine(bundle, dtype="float64")


def recording(seconds: float = 6.0, n: int = 900, seed: int = 0) -> Recording:
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(10.0, 10.0 + seconds, n))
    spikes = Spikes(times, rng.integers(0, 24, n).astype(np.int32))
    ids = tuple(f"sess_a/unit_{i:04d}" for i in range(24))
    return Recording("sess_a", ids, lambda: spikes, (10.0, 10.0 + seconds))


def one_window(engine: Engine, rec: Recording, start: float, at: float) -> NDArray[Any]:
    batch = SpikeBatch.from_recording(rec, np.array([start]), LENGTH, np.array([[at - start]]))
    return np.asarray(engine.run(batch).prediction)[0, 0]


def test_acausal_values_are_means_over_the_windows_that_hold_them(engine: Engine) -> None:
    rec = recording()
    out = decode(engine, rec, np.array([10.25, 11.2, 15.9]))
    assert out.windows.tolist() == [1, 2, 1]
    expected = [
        one_window(engine, rec, 10.0, 10.25),
        (one_window(engine, rec, 10.5, 11.2) + one_window(engine, rec, 11.0, 11.2)) / 2,
        one_window(engine, rec, 15.0, 15.9),
    ]
    np.testing.assert_allclose(out.values, expected, atol=1e-10)


def test_causal_values_come_from_the_window_that_ends_there(engine: Engine) -> None:
    rec = recording()
    out = decode(engine, rec, np.array([10.5, 11.0, 12.345]), causal=True)
    assert out.windows.tolist() == [0, 1, 1]
    assert np.isnan(out.values[0]).all()
    np.testing.assert_allclose(out.values[1], one_window(engine, rec, 10.0, 11.0), atol=1e-10)
    np.testing.assert_allclose(out.values[2], one_window(engine, rec, 11.345, 12.345), atol=1e-10)


def test_a_causal_value_does_not_depend_on_later_spikes(engine: Engine) -> None:
    rec = recording()
    spikes = rec.spikes
    early = spikes.times < 13.0
    cut = Spikes(spikes.times[early], spikes.units[early])
    past = replace(rec, load_spikes=lambda: cut)
    at = np.array([12.0, 13.0])
    np.testing.assert_array_equal(
        decode(engine, rec, at, causal=True).values, decode(engine, past, at, causal=True).values
    )
    assert not np.allclose(decode(engine, rec, at).values, decode(engine, past, at).values)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_the_batch_size_changes_nothing(engine: Engine, batch_size: int) -> None:
    rec, at = recording(), np.linspace(10, 15.99, 57)
    full = decode(engine, rec, at, batch_size=16)
    part = decode(engine, rec, at, batch_size=batch_size)
    np.testing.assert_allclose(part.values, full.values, atol=1e-10)


def test_the_last_window_ends_with_the_recording(engine: Engine) -> None:
    rec = recording(seconds=2.3)
    out = decode(engine, rec, np.array([12.29]))
    np.testing.assert_allclose(out.values[0], one_window(engine, rec, 11.3, 12.29), atol=1e-10)


def test_no_window_on_held_out_time_reaches_into_training_time(bundle: Bundle) -> None:
    split = Split((10.0, 12.0, 14.0, 16.0), ("training", "test", "training"), 1.0, 1.0)
    facts = {"session": "sess_a", "split": split.to_json()}
    told = Engine(replace(bundle, manifest=replace(bundle.manifest, training=facts)))
    rec = recording()
    spikes = rec.spikes
    inside = (spikes.times >= 12.0) & (spikes.times < 14.0)
    kept = Spikes(spikes.times[inside], spikes.units[inside])
    only = replace(rec, load_spikes=lambda: kept)
    at = np.linspace(12.0, 13.99, 40)
    for causal in (False, True):
        whole = decode(told, rec, at, causal=causal)
        np.testing.assert_array_equal(whole.values, decode(told, only, at, causal=causal).values)
    # a window that starts in training time would see other spikes
    assert not np.allclose(
        decode(told, rec, at, intervals=[(10.0, 16.0)]).values,
        decode(told, only, at, intervals=[(10.0, 16.0)]).values,
        equal_nan=True,
    )


def test_gaps_between_intervals_are_not_decoded(engine: Engine) -> None:
    out = decode(
        engine, recording(), np.array([10.5, 12.5, 14.5]), intervals=[(10, 11.5), (14, 16)]
    )
    assert out.windows.tolist() == [2, 0, 2]
    assert np.isnan(out.values[1]).all()


def test_units_and_sessions_that_the_bundle_lacks_are_refused(engine: Engine) -> None:
    rec, at = recording(), np.array([12.0])
    stranger = replace(rec, unit_ids=(*rec.unit_ids[:-1], "sess_b/unit_0000"))
    with pytest.raises(AttendriteError, match="every unit must be known to the model"):
        decode(engine, stranger, at)
    with pytest.raises(AttendriteError, match="every session must be known to the model"):
        decode(engine, replace(rec, session="sess_b"), at)
    np.testing.assert_array_equal(
        decode(engine, replace(rec, session="sess_b"), at, session="sess_a").values,
        decode(engine, rec, at).values,
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"query_times": np.array([12.0, 11.0])}, "query_times must be sorted"),
        ({"query_times": np.array([np.nan])}, "query_times must be finite"),
        ({"query_times": np.array([99.0])}, "query_times must lie where a window of 1 s fits"),
        ({"intervals": [(10.0, 10.9)]}, "query_times must lie where a window of 1 s fits"),
        ({"hop": 0.0}, "hop must be above 0 and at most the window's 1 s"),
        ({"hop": 1.5}, "hop must be above 0 and at most the window's 1 s"),
    ],
)
def test_bad_input(engine: Engine, changes: dict[str, Any], message: str) -> None:
    arguments = {"query_times": np.array([12.0]), **changes}
    with pytest.raises(AttendriteError, match=message):
        decode(engine, recording(), **arguments)
