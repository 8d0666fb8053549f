"""Spikes around an output: planted kernels come back within their errors, nulls hold their rate."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from attendrite.analysis import triggered
from attendrite.analysis.spike_averages import Averages, averages, memory
from attendrite.batches import CalciumBatch, SpikeBatch
from attendrite.errors import AttendriteError
from attendrite.recordings import Intervals, Recording, Series, Spikes
from numpy.typing import NDArray
from scipy import signal, stats

Floats = NDArray[np.float64]
WIDTH = 0.02
BEFORE, AFTER = 8, 4
LAGS = BEFORE + AFTER


def within_chance(hits: int, tests: int, rate: float) -> bool:
    """Say whether a number of hits lies in the middle 99.9 % of what a rate gives."""
    low, high = stats.binom.ppf([0.0005, 0.9995], tests, rate)
    return bool(low <= hits <= high)


def remembering(rng: np.random.Generator, bins: float, shape: tuple[int, ...]) -> Floats:
    """Gaussian noise of variance 1 that forgets itself exponentially, along the first axis."""
    a = np.exp(-1 / bins)
    white = rng.standard_normal(shape)
    white[1:] *= np.sqrt(1 - a**2)
    return np.asarray(signal.lfilter([1], [1, -a], white, axis=0))


def around(counts: NDArray[Any], kernel: Floats) -> Floats:
    """Sum ``kernel[d, u, k] counts[t + k - BEFORE, u]`` on the bins that have all lags."""
    out = np.zeros((len(counts), len(kernel)))
    for k in range(LAGS):
        part = counts[k : len(counts) - LAGS + 1 + k] @ kernel[:, :, k].T
        out[BEFORE : len(counts) - AFTER + 1] += part
    return out


def inner(size: int) -> NDArray[np.bool_]:
    used = np.zeros(size, np.bool_)
    used[BEFORE : size - AFTER + 1] = True
    return used


def average(output: Floats, used: NDArray[np.bool_], counts: Any, block: int = 60) -> Averages:
    return averages(
        output, used, counts.astype(np.uint16),
        before=BEFORE, after=AFTER, width=WIDTH, block=block,
    )  # fmt: skip


def small(seed: int = 0) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    counts = rng.poisson(0.3, (1500, 5))
    output = remembering(rng, 5, (1500, 2)) + counts[:, :2]
    used = inner(1500)
    used[300:420] = used[900:903] = False
    return output, used, counts


def test_the_average_is_what_the_definition_says() -> None:
    output, used, counts = small()
    found = average(output, used, counts)
    at = np.flatnonzero(used)
    z = (output[at] - output[at].mean(0)) / output[at].std(0)
    for k in range(LAGS):
        spikes = counts[at + k - BEFORE]
        expected = z.T @ (spikes - spikes.mean(0)) / len(at) / WIDTH
        np.testing.assert_allclose(found.average[:, :, k], expected, atol=1e-12)
    np.testing.assert_allclose(found.sd, output[at].std(0))
    blocks = np.array_split(at, found.blocks)
    for half, name in enumerate(("even", "odd")):
        some = np.concatenate(blocks[half::2])
        z = (output[some] - output[some].mean(0)) / output[at].std(0)
        expected = z.T @ counts[some] / len(some) / WIDTH
        np.testing.assert_allclose(getattr(found, name)[:, :, BEFORE], expected, atol=1e-12)


def test_the_error_is_that_of_a_jackknife_over_blocks() -> None:
    output, used, counts = small()
    found = average(output, used, counts)
    blocks = np.array_split(np.flatnonzero(used), found.blocks)
    assert found.blocks == 22
    left_out = []
    for b in range(len(blocks)):
        at = np.concatenate([block for i, block in enumerate(blocks) if i != b])
        z = (output[at] - output[at].mean(0)) / output[at].std(0)
        left_out.append(np.stack([z.T @ counts[at + k] / len(at) / WIDTH for k in (-8, 0, 3)], -1))
    spread = np.stack(left_out).std(0) * np.sqrt(len(blocks) - 1)
    np.testing.assert_allclose(found.standard_error[:, :, [0, 8, 11]], spread, rtol=0.03)


def test_p_is_the_share_of_shifts() -> None:
    output, used, counts = small(1)
    found = average(output, used, counts)
    at = np.flatnonzero(used)
    z = np.zeros(output.shape)
    z[at] = (output[at] - output[at].mean(0)) / output[at].std(0)
    ring = np.arange(1500)
    for gap in (range(300, 420), range(900, 903)):  # beyond any lag of a used bin
        ring = np.setdiff1d(ring, [t for t in gap if t >= gap[0] + AFTER - 1
                                   and t < gap[-1] + 1 - BEFORE])  # fmt: skip
    assert found.shifts == len(ring) // LAGS
    largest = []
    for s in range(found.shifts):
        shift = s * len(ring) // found.shifts
        moved = [counts[ring][(np.arange(len(ring)) + shift + k) % len(ring)]
                 for k in range(-BEFORE, AFTER)]  # fmt: skip
        largest.append(np.max([np.abs(z[ring].T @ spikes) for spikes in moved], 0))
    count = (np.stack(largest) >= largest[0] - 1e-9).sum(0)
    np.testing.assert_allclose(found.p_value, count / found.shifts)
    np.testing.assert_allclose(largest[0] / len(at) / WIDTH, np.abs(found.average).max(2))


def test_a_planted_kernel_comes_back_within_its_errors() -> None:
    """Half the units have weights; the output also has slow noise that is not of the spikes."""
    deviations, null = [], []
    crossing = stats.t.isf(0.025, 49)
    for seed in range(3):
        rng = np.random.default_rng(seed)
        rate = rng.uniform(1, 20, 40)  # Hz
        kernel = rng.normal(0, 1, (2, 40, LAGS))
        kernel[:, 20:] = 0
        counts = rng.poisson(rate * WIDTH, (30_000, 40))
        power = ((kernel**2).sum(2) * rate * WIDTH).sum(1)
        noise = remembering(rng, 15, (30_000, 2)) * np.sqrt(power)
        found = average(around(counts, kernel) + noise, inner(30_000), counts)
        assert found.blocks == 50
        true = kernel * rate[:, None] / np.sqrt(2 * power)[:, None, None]
        deviations.append((found.average - true) / found.standard_error)
        null.append(found.p_value[:, 20:])
        assert (found.p_value[:, :20] <= 0.05).mean() > 0.9
    off = np.stack(deviations)
    assert abs(off.mean()) < 4 / np.sqrt(off.size)
    assert 0.95 < off.std() < 1.09  # Student's t of 49 has 1.02
    assert within_chance(int((np.abs(off) > crossing).sum()), off.size, 0.05)
    p = np.stack(null)
    assert within_chance(int((p <= 0.05).sum()), p.size, 0.05)


def test_halves_agree_as_much_as_signal_and_error_predict() -> None:
    """White noise hides most of the weights, so that errors of lags are independent."""
    rng = np.random.default_rng(11)
    kernel = rng.normal(0, 1, (2, 60, LAGS))
    counts = rng.poisson(10 * WIDTH, (30_000, 60))
    power = (kernel**2).sum((1, 2)) * 10 * WIDTH
    noise = rng.standard_normal((30_000, 2)) * np.sqrt(9 * power)
    found = average(around(counts, kernel) + noise, inner(30_000), counts)
    true = kernel * 10 / np.sqrt(10 * power)[:, None, None]
    strength = true.var(2).mean()
    predicted = strength / (strength + 2 * (found.standard_error**2).mean())  # a half has twice
    assert 0.3 < predicted < 0.7
    products, squares = ((x * y).sum() for x, y in (
        [half - half.mean(2, keepdims=True) for half in pair]
        for pair in ((found.even, found.odd), (found.even, found.even))
    ))  # fmt: skip
    assert abs(products / squares - predicted) < 0.05


def test_outputs_and_rates_that_remember_give_no_false_alarms() -> None:
    """Slow output, slow rates, nothing in common: the white formula rejects far too often."""
    z, white, p = [], [], []
    for seed in range(4):
        rng = np.random.default_rng(100 + seed)
        output = remembering(rng, 20, (30_000, 1))
        rates = np.exp(remembering(rng, 20, (30_000, 100))) * 10
        counts = rng.poisson(rates * WIDTH)
        found = average(output, inner(30_000), counts, block=100)
        z.append(found.average[0, :, BEFORE] / found.standard_error[0, :, BEFORE])
        white.append(found.average[0, :, BEFORE] / (counts.std(0) / WIDTH / np.sqrt(30_000)))
        p.append(found.p_value[0])
    crossing = stats.t.isf(0.025, 49)
    assert within_chance(int((np.abs(np.stack(z)) > crossing).sum()), 400, 0.05)
    assert within_chance(int((np.stack(p) <= 0.05).sum()), 400, 0.05)
    assert (np.abs(np.stack(white)) > crossing).mean() > 0.2


def test_memory_is_where_the_autocorrelation_falls_below_1_over_e() -> None:
    rng = np.random.default_rng(3)
    output = np.stack([remembering(rng, tau, (60_000,)) for tau in (3, 20)], 1)
    used = rng.random(60_000) < 0.7
    assert memory(output[:, :1], used) in (3, 4)
    assert 16 <= memory(output, used) <= 24


def test_too_little_time_and_silence_say_so() -> None:
    output, used, counts = small()
    counts[:, 3] = 0
    found = average(output, used, counts)
    assert np.isnan(found.p_value[:, 3]).all()
    assert not found.average[:, 3].any()
    assert not found.standard_error[:, 3].any()
    few = average(output, used, counts, block=300)
    assert few.blocks == 4
    assert np.isnan(few.standard_error).all()
    assert np.isfinite(few.p_value[:, 0]).all()
    short = np.zeros_like(used)
    short[100:250] = True
    assert np.isnan(average(output, short, counts, block=20).p_value).all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"before": 0, "after": 0}, "lags must be at least one bin, got 0 before and 0 after"),
        ({"block": 700}, "the time to average over must hold two blocks of 14 s, got 27.3 s"),
        ({"before": 9}, "used bins must have their lags on the grid"),
        ({"after": 5}, "used bins must have their lags on the grid"),
        ({"output": np.ones((1500, 1))}, "output 0 must change over time, got one value"),
        ({"output": np.full((1500, 1), np.nan)}, "output must be finite"),
    ],
)
def test_what_cannot_be_averaged_is_refused(change: dict[str, Any], message: str) -> None:
    output, used, counts = small()
    given: dict[str, Any] = {
        "output": output, "before": BEFORE, "after": AFTER, "block": 60, "width": WIDTH,
    } | change  # fmt: skip
    with pytest.raises(AttendriteError, match=message):
        averages(given.pop("output"), used, counts.astype(np.uint16), **given)


class Decoder:
    """Stands in for an engine: a filter of the spikes in its window, and two units' product."""

    length = BEFORE * WIDTH

    def __init__(self, kernel: Floats, product: float = 0.0) -> None:
        self.kernel, self.product = kernel, product
        self.manifest = SimpleNamespace(
            sequence_length=self.length, training={}, family="stand-in", tasks=()
        )
        self.model = SimpleNamespace(batch=SpikeBatch)
        self.versions = {"attendrite": "0"}

    def run(self, batch: SpikeBatch) -> Any:
        """Weigh spikes by unit and by time before the query, which ends the window."""
        assert np.allclose(batch.query_times, self.length)
        bins = np.floor(batch.times / WIDTH).astype(int)
        size = len(batch), len(batch.unit_ids), BEFORE
        flat = np.ravel_multi_index((batch.window, batch.units, bins), size)
        counts = np.bincount(flat, minlength=int(np.prod(size))).reshape(size)
        values = np.einsum("buk,duk->bd", counts, self.kernel)
        own = counts[:, -2:, -1] - 10 * WIDTH
        values += self.product * own.prod(1, keepdims=True)
        return SimpleNamespace(prediction=values[:, None])


def population(seconds: float = 400.0, units: int = 6) -> Recording:
    rng = np.random.default_rng(7)
    trains = [np.sort(rng.uniform(0, seconds, int(10 * seconds))) for _ in range(units)]
    trains[1] = np.sort((trains[0] + 3.5 * WIDTH) % seconds)  # follows unit 0
    spikes = Spikes.from_trains(trains)
    reach = Intervals(np.array([0.0, 200.0]), np.array([150.0, 350.0]))
    return Recording("s", tuple(f"u{i}" for i in range(units)), lambda: spikes, (0.0, seconds),
                     intervals={"reach": reach})  # fmt: skip


def stand_in(product: float = 0.0) -> Decoder:
    kernel = np.random.default_rng(1).normal(0, 1, (2, 6, BEFORE))
    kernel[:, 1:3] = 0
    return Decoder(kernel, product)


def test_poisson_spikes_give_the_weights_of_the_decoder() -> None:
    decoder = stand_in(product=10.0)
    found = triggered(decoder, population(), given="poisson", width=WIDTH, causal=True,  # type: ignore[arg-type]
                      after=AFTER * WIDTH, seconds=600, batch_size=2000)  # fmt: skip
    assert found.meta["model_sees_s"] == [-decoder.length, 0]
    np.testing.assert_allclose(found.lags, (np.arange(-BEFORE, AFTER) + 0.5) * WIDTH)
    assert found.weights is not None
    true = np.pad(decoder.kernel, ((0, 0), (0, 0), (0, AFTER)))
    error = found.weights * found.standard_error / found.average
    off = (found.weights - true) / error
    assert 0.85 < off.std() < 1.2
    assert within_chance(int((np.abs(off) > stats.t.isf(0.025, 49)).sum()), off.size, 0.05)
    variance = 10 * WIDTH  # of a unit's count in a bin
    linear = (decoder.kernel**2).sum((1, 2)) * variance
    share = linear / (linear + 10.0**2 * variance**2)
    np.testing.assert_allclose([found.meta["linear"][d] for d in found.outputs], share, atol=0.02)
    by_unit = (decoder.kernel**2).sum(2) * variance / (linear / share)[:, None]
    np.testing.assert_allclose(found.units["linear"].reshape(2, -1), by_unit, atol=0.02)


def test_what_is_not_linear_is_not_called_linear() -> None:
    """In 20 s the noise of the average alone would be a tenth of the output's variance."""
    decoder = Decoder(np.zeros((1, 6, BEFORE)), product=10.0)
    shares = [
        triggered(decoder, population(), given="poisson", width=WIDTH, causal=True, seconds=20,  # type: ignore[arg-type]
                  after=AFTER * WIDTH, seed=seed, batch_size=2000).meta["linear"]["value0"]
        for seed in range(12)
    ]  # fmt: skip
    assert abs(np.mean(shares)) < 4 * np.std(shares) / np.sqrt(len(shares))
    assert np.std(shares) < 0.05


def test_a_seed_gives_the_same_spikes_and_another_one_others() -> None:
    def once(seed: int) -> Floats:
        return triggered(stand_in(), population(), given="poisson", width=WIDTH, causal=True,  # type: ignore[arg-type]
                         seconds=60, seed=seed, batch_size=2000).average  # fmt: skip

    np.testing.assert_array_equal(once(0), once(0))
    assert np.abs(once(0) - once(1)).max() > 0.1


def test_recorded_spikes_lend_weight_to_units_that_follow_others() -> None:
    """Unit 1 has no weight in the model; in the recording it repeats unit 0 three bins later."""
    recorded, own = (
        triggered(stand_in(), population(), given=given, width=WIDTH, causal=True, batch_size=2000)  # type: ignore[arg-type]
        for given in ("recorded", "poisson")
    )
    p = {"recorded": recorded.units["p_value"], "poisson": own.units["p_value"]}
    assert (p["recorded"].reshape(2, -1)[:, 1] < 0.01).all()
    assert (p["poisson"].reshape(2, -1)[:, 1] > 0.01).all()
    assert (p["recorded"].reshape(2, -1)[:, 2] > 0.01).all()
    assert recorded.weights is None
    assert recorded.meta["linear"] is None


def test_times_within_intervals_alone_count() -> None:
    found = triggered(stand_in(), population(), width=WIDTH, causal=True, within="reach",  # type: ignore[arg-type]
                      batch_size=2000)  # fmt: skip
    assert found.meta["seconds"] == pytest.approx(300 - BEFORE * WIDTH, abs=3 * WIDTH)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"given": "noise"}, "unknown input 'noise'; known: recorded, poisson"),
        ({"width": 0.0100000001}, "the width of a bin must be a whole number of microseconds"),
        ({"width": np.inf}, "the width of a bin must be a whole number of microseconds"),
        ({"within": "rest"}, "unknown intervals 'rest'; known: reach"),
        ({"given": "poisson", "within": "reach"}, "intervals must come with recorded spikes"),
        ({"seconds": 3.0}, "seconds must come with poisson spikes"),
        ({"given": "poisson", "seconds": 0.0}, "seconds must be above 0"),
        ({"before": -1.0, "after": 1.0}, "lags before and after must be 0 s or more and not both"),
        ({"before": 0.0}, "lags before and after must be 0 s or more and not both 0, got 0.0 and"),
    ],
)
def test_bad_choices_are_refused(change: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"width": WIDTH, "causal": True, "batch_size": 2000} | change
    with pytest.raises(AttendriteError, match=message):
        triggered(stand_in(), population(60), **given)  # type: ignore[arg-type]


def test_decoders_of_fluorescence_are_refused() -> None:
    decoder = stand_in()
    decoder.model.batch, decoder.manifest.family = CalciumBatch, "calcium_poyo_plus"
    with pytest.raises(AttendriteError, match="decoder of spikes, got a calcium_poyo_plus model"):
        triggered(decoder, population(60))  # type: ignore[arg-type]
    times = np.arange(0, 60.0)
    traces = Series(times, np.zeros((60, 6)), tuple("abcdef"))
    with pytest.raises(AttendriteError, match="the recording must hold spikes, got fluorescence"):
        triggered(stand_in(), replace(population(60), traces=traces))  # type: ignore[arg-type]


def test_a_recording_without_spikes_has_no_poisson_rates() -> None:
    silent = Recording("s", ("u0",), Spikes.none, (0.0, 60.0))
    with pytest.raises(AttendriteError, match="the recording must hold spikes, got none"):
        triggered(stand_in(), silent, given="poisson", causal=True)  # type: ignore[arg-type]
