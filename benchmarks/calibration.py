"""Calibrate the tests of ablation on simulated data: ``python benchmarks/calibration.py``.

Data sets of :func:`attendrite.simulate.tuned` go through the very functions of ``attendrite
ablate``: nulls, areas, p-values, intervals, verdicts. The model's stand-in is a linear decoder of
the latent: least squares on spike counts of training trials; units are ranked on other trials and
removed on yet others. A removed unit's term goes as a whole, ``weight * (count - training mean)``,
so the intercept is adjusted: without any unit the decoder says the training mean.

Work comes in shards (docs/shards.md): stop it with Ctrl-C, go on with the same command. Rows go to
``benchmarks/results/calibration.jsonl``; figure and tables of ``docs/calibration.md`` are made from
rows. A document marks a place with ``<!-- calibration: tests -->``, or ``scenarios``, and
``<!-- end -->``.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parent))

from attendrite import shards, simulate
from attendrite.ablation import metrics, statistics
from attendrite.ablation.nulls import distinct, ranking
from attendrite.ablation.plans import points
from attendrite.analysis.strata import by_rate
from rows import RESULTS, ROOT, machine, versions
from scipy import stats

Floats = NDArray[np.float64]
Row = dict[str, Any]

ROWS = RESULTS / "calibration.jsonl"
PAGE = ROOT / "docs" / "calibration.md"
FIGURE = ROOT / "docs" / "calibration.png"
MARKED = re.compile(r"(<!-- calibration: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)

FORMAT = 2
UNITS = 24
TRIALS = 100  # of 1 s, for each of training, ranking and evaluation
BLOCK = 5  # trials
NULLS = ("random", "rate")
RANKINGS = 200
RESAMPLES = 500  # of the baseline's interval
BINS = 20  # of the histogram of p
PER_SHARD = 100  # data sets
REMOVED = points(UNITS, "silence")
# Two octaves apart: chance does not move units from one rate to another.
LEVELS = tuple(np.repeat(2.0 ** np.array([7.5, 9.5, 11.5]) / TRIALS, UNITS // 3).tolist())
SPREAD = tuple(np.geomspace(1.5, 48, UNITS).tolist())


@dataclass(frozen=True)
class Scenario:
    """One kind of data set.

    Attributes:
        name: In rows and tables.
        says: What is true of it, in words.
        order: Units are ranked by their ``effect`` when removed alone, or by their ``spikes``.
        informative: Units that know of the latent.
        gain: Of these; see :func:`attendrite.simulate.tuned`.
        rates: Hz, one or one per unit.
        tied: Units of equal rate and gain share a weight. They are then truly exchangeable: which
            one is removed makes no difference but by the chance of the evaluation trials.
    """

    name: str
    says: str
    order: str
    informative: int = UNITS
    gain: float = 0.3
    rates: tuple[float, ...] = (8.0,) * UNITS
    tied: bool = False


SCENARIOS = (
    Scenario("a exchangeable", "all units alike; ranked by effect", "effect", tied=True),
    Scenario("b rate", "three rates; ranked by spikes", "spikes", rates=LEVELS, tied=True),
    Scenario("b rate, spread", "rates 1.5 to 48 Hz; ranked by spikes", "spikes", rates=SPREAD),
    Scenario("c nothing", "no unit informative; ranked by effect", "effect", 0, tied=True),
    Scenario("d planted 0.10", "6 units of gain 0.10; ranked by effect", "effect", 6, 0.10),
    Scenario("d planted 0.15", "6 units of gain 0.15; ranked by effect", "effect", 6, 0.15),
    Scenario("d planted 0.25", "6 units of gain 0.25; ranked by effect", "effect", 6, 0.25),
)


@dataclass(frozen=True)
class Calibration:
    """The job: data sets of all scenarios, ``PER_SHARD`` in a shard. See ``attendrite.shards``."""

    sets: int
    scenarios: tuple[Scenario, ...] = SCENARIOS

    @cached_property
    def portions(self) -> list[tuple[Scenario, range]]:
        """Scenario and seeds of each shard."""
        starts = range(0, self.sets, PER_SHARD)
        return [
            (s, range(i, min(i + PER_SHARD, self.sets))) for s in self.scenarios for i in starts
        ]

    @property
    def shards(self) -> int:
        """Number of shards."""
        return len(self.portions)

    def identity(self) -> Mapping[str, Any]:
        """Return everything that decides the result."""
        return {
            "what": "calibration of ablation",
            "format": FORMAT,
            "sets": self.sets,
            "scenarios": [asdict(one) | {"rates": list(one.rates)} for one in self.scenarios],
            "settings": [UNITS, TRIALS, BLOCK, RANKINGS, RESAMPLES, *REMOVED.tolist()],
        }

    def run(self, shard: int) -> Mapping[str, NDArray[Any]]:
        """Test every data set of a shard against every null."""
        scenario, seeds = self.portions[shard]
        found = [tested(scenario, seed, RANKINGS) for seed in seeds]
        return {
            "p": np.array([[one.p[0] for one in each] for _, each in found]),
            "verdict": np.array([[one.verdict[0] for one in each] for _, each in found], "U20"),
            "gain": np.array([curve.baseline.gain[0] for curve, _ in found]),
        }


def tested(
    scenario: Scenario, seed: int, rankings: int
) -> tuple[statistics.Curve, list[statistics.Comparison]]:
    """Make a data set, remove units by its ranking, and compare with every null."""
    counts, latent, decoder = data_set(scenario, seed)
    train, rank, evaluate = np.split(np.arange(3 * TRIALS), 3)
    fitted = decoder.fit(counts[train], latent[train])
    metric = metrics.chosen("r2", latent[train].mean(0))
    strata = by_rate(counts[rank].sum(0))
    scores = _effects(metric, fitted, counts[rank], latent[rank])
    if scenario.order == "spikes":
        scores = counts[rank].sum(0).astype(np.float64)
    order = np.argsort(-scores, kind="stable")

    def sums(orders: NDArray[np.int64]) -> Floats:
        decoded = fitted.removing(counts[evaluate], orders)
        return _by_block(metric, latent[evaluate], decoded)

    says = np.full_like(latent[evaluate], fitted.mean)
    removal = statistics.Removal(
        metric, REMOVED, UNITS, sums(order[None])[0], _by_block(metric, latent[evaluate], says)
    )
    weights = statistics.resamples(TRIALS // BLOCK, RESAMPLES, seed)
    curve = statistics.curve(removal, weights)
    comparisons = []
    for null in NULLS:
        orders = [ranking(null, order, strata, seed, r) for r in range(rankings)]
        comparisons.append(
            statistics.compare(
                removal, curve, sums(np.array(orders)), distinct(null, strata), weights[:0]
            )
        )
    return curve, comparisons


@dataclass(frozen=True)
class Decoder:
    """A linear decoder of the latent from spike counts, whose weights may be tied.

    Attributes:
        group: Group of each unit, ``[U]``; units of a group share weight and mean count.
        weights: ``[U]``.
        means: Mean counts, ``[U]``.
        mean: Of the latent.
    """

    group: NDArray[np.int64]
    weights: Floats
    means: Floats
    mean: float

    def fit(self, counts: NDArray[np.int64], latent: Floats) -> Decoder:
        """Return the least-squares fit to counts ``[K, U]`` and latents ``[K, 1]``."""
        members = np.eye(self.group.max() + 1)[self.group]  # [U, G]
        means = ((counts.mean(0) @ members) / members.sum(0))[self.group]
        grouped = (counts - means) @ members
        mean = float(latent.mean())
        weights = np.linalg.lstsq(grouped, latent[:, 0] - mean, rcond=None)[0][self.group]
        return Decoder(self.group, weights, means, mean)

    def removing(self, counts: NDArray[np.int64], orders: NDArray[np.int64]) -> Floats:
        """Decode counts ``[K, U]`` while units go in some orders ``[R, U]``, ``[R, C, K, 1]``."""
        terms = self.weights * (counts - self.means)  # [K, U]
        kept = np.argsort(orders, 1)[:, None] >= REMOVED[:, None]  # [R, C, U]
        return (kept.astype(np.float64) @ terms.T)[..., None] + self.mean


def data_set(scenario: Scenario, seed: int) -> tuple[NDArray[np.int64], Floats, Decoder]:
    """Return spike counts ``[K, U]``, latents ``[K, 1]`` and a decoder to be fitted."""
    recording, truth = simulate.tuned(
        UNITS,
        scenario.informative,
        n_trials=3 * TRIALS,
        rates=scenario.rates,
        gains=scenario.gain,
        seed=seed,
    )
    times, offsets = recording.by_unit()
    trial = np.searchsorted(recording.intervals["trials"].start, times, "right") - 1
    unit = np.repeat(np.arange(UNITS), np.diff(offsets))
    counts = np.bincount(trial * UNITS + unit, minlength=3 * TRIALS * UNITS).reshape(-1, UNITS)
    alike = np.unique(np.stack([truth.rate, truth.gain]), axis=1, return_inverse=True)[1]
    group = alike.reshape(-1) if scenario.tied else np.arange(UNITS)
    nothing = np.zeros(UNITS)
    return counts, truth.latent[:, None], Decoder(group, nothing, nothing, 0.0)


def _effects(
    metric: metrics.Metric, decoder: Decoder, counts: NDArray[np.int64], latent: Floats
) -> Floats:
    """Return what the metric loses when each unit alone is removed, ``[U]``."""
    terms = decoder.weights * (counts - decoder.means)
    # The sum over kept units, not total minus removed: units alike must tie but by their counts.
    decoded = decoder.mean + ((1 - np.eye(UNITS)) @ terms.T)[..., None]
    values = metric.of(metric.sums(latent, decoded))
    return -metric.better * values[:, 0]


def _by_block(metric: metrics.Metric, true: Floats, decoded: Floats) -> Floats:
    """Return sums ``[..., B, M, k]`` of decoded values ``[..., K, D]``."""
    blocks = np.split(np.arange(len(true)), len(true) // BLOCK)
    return np.stack([metric.sums(true[b], decoded[..., b, :]) for b in blocks], -3)


def rows(job: Calibration, results: Iterator[shards.Result]) -> list[Row]:
    """Make one row per scenario and null from the results of all shards."""
    gathered: dict[str, list[shards.Result]] = {one.name: [] for one in job.scenarios}
    for (scenario, _), result in zip(job.portions, results, strict=True):
        gathered[scenario.name].append(result)
    return [
        row(scenario, null, i, shards.merged(gathered[scenario.name], "concatenate"))
        for scenario in job.scenarios
        for i, null in enumerate(NULLS)
    ]


def row(scenario: Scenario, null: str, i: int, found: shards.Result) -> Row:
    """Summarise the p-values of a scenario and a null."""
    p, verdict = found["p"][:, i], found["verdict"][:, i]
    steps = np.arange(1, RANKINGS + 2) / (RANKINGS + 1)  # p takes these values, equally often
    reached = np.searchsorted(np.sort(p), steps + 1e-9) / len(p)
    distance = float(np.abs(reached - steps).max())
    return {
        "suite": "calibration",
        "scenario": scenario.name,
        "says": scenario.says,
        "null": null,
        "sets": len(p),
        "units": UNITS,
        "trials": TRIALS,
        "rankings": RANKINGS,
        "r2": float(np.median(found["gain"])),
        "rejected": _share(p <= statistics.ALPHA),
        "significant": _share(verdict == statistics.SIGNIFICANT),
        "not_testable": _share(verdict == statistics.NOT_TESTABLE),
        "too_few": _share(np.char.startswith(verdict, "too few")),
        "ks": distance,
        "ks_p": float(stats.kstwo.sf(distance, len(p))),
        "histogram": np.histogram(p, BINS, (0, 1))[0].tolist(),
        "versions": versions(["numpy", "scipy", "attendrite"]),
        **{field: machine()[field] for field in ("cpu", "commit", "dirty", "date")},
    }


def _share(which: NDArray[np.bool_]) -> list[float]:
    """Return a share and its exact 95 % interval (Clopper and Pearson 1934)."""
    found = stats.binomtest(int(which.sum()), len(which))
    interval = found.proportion_ci()
    return [float(found.statistic), float(interval.low), float(interval.high)]


def fill(text: str, lines: Sequence[Row]) -> str:
    """Return a document with its marked tables made anew from rows."""
    return MARKED.sub(lambda m: f"{m[1]}{TABLES[m[2]](lines)}\n{m[3]}", text)


def _tests(lines: Sequence[Row]) -> str:
    head = ["scenario", "null", "R2", "p <= 0.05", "KS distance", "KS p", "not testable",
            "called significant"]  # fmt: skip
    cells = [
        [
            line["scenario"],
            f"`{line['null']}`",
            f"{line['r2']:.3f}",
            _interval(line["rejected"]),
            f"{line['ks']:.3f}",
            f"{line['ks_p']:.2g}" if line["ks_p"] >= 1e-4 else "< 1e-4",
            _interval(line["not_testable"]),
            _interval(line["significant"]),
        ]
        for line in lines
    ]
    first = lines[0]
    source = (
        f"{first['sets']} data sets each; {first['units']} units, {first['trials']} trials each to "
        f"train, to rank and to evaluate on, {first['rankings']} rankings of each null; share "
        "[95 % interval]. "
        f"{first['cpu']}, commit {first['commit'] or 'unknown'}, {first['date'][:10]}."
    )
    return f"{_markdown(head, cells)}\n\n{source}"


def _scenarios(lines: Sequence[Row]) -> str:
    return _markdown(
        ["scenario", "data"],
        [[name, says] for name, says in dict((x["scenario"], x["says"]) for x in lines).items()],
    )


TABLES = {"tests": _tests, "scenarios": _scenarios}


def _interval(share: Sequence[float]) -> str:
    return f"{share[0]:.3f} [{share[1]:.3f}, {share[2]:.3f}]"


def _markdown(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, rule, *lines))


def draw(lines: Sequence[Row], path: Path) -> None:
    """Draw how often p lies below a value, for each scenario and null."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = list(dict.fromkeys(line["scenario"] for line in lines))
    style: Any = {"font.size": 9, "axes.spines.top": False, "axes.spines.right": False}
    with plt.rc_context(style):
        figure, panels = plt.subplots(
            1, len(names), figsize=(2.0 * len(names), 2.5), sharey=True, layout="constrained"
        )
        for panel, name in zip(panels, names, strict=True):
            panel.plot([0, 1], [0, 1], color="#9aa5b1", lw=1)
            for line in (x for x in lines if x["scenario"] == name):
                reached = np.concatenate([[0], np.cumsum(line["histogram"])]) / line["sets"]
                look = {"random": ("#d9704a", "-"), "rate": ("#1b6ca8", "--")}[line["null"]]
                panel.plot(
                    np.linspace(0, 1, BINS + 1), reached, color=look[0], ls=look[1],
                    label=line["null"],
                )  # fmt: skip
            panel.set(title=name, xlabel="p", xlim=(0, 1), ylim=(0, 1.01))
        panels[0].set_ylabel("share of data sets with p below")
        panels[0].legend(frameon=False, loc="lower right", title="null")
        figure.savefig(path, dpi=130, metadata={"Software": None})
        plt.close(figure)


def load() -> list[Row]:
    """Read the committed rows."""
    return [json.loads(line) for line in ROWS.read_text().splitlines()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    add = parser.add_argument
    add("--sets", type=int, default=1000, help="data sets of each scenario (default: 1000)")
    add("-o", "--out", type=Path, help="folder of the run (default: build/calibration_SETS)")
    add("--processes", type=int, default=1, help="processes (default: 1)")
    options = parser.parse_args(arguments)
    folder = options.out or ROOT / "build" / f"calibration_{options.sets}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    job = Calibration(options.sets)
    try:
        found = rows(job, shards.run(job, folder, processes=options.processes))
    except KeyboardInterrupt:
        print(f"stopped; the same command goes on from {folder}", file=sys.stderr)
        return 130
    ROWS.write_text("".join(json.dumps(line) + "\n" for line in found))
    draw(found, FIGURE)
    PAGE.write_text(fill(PAGE.read_text(), found))
    print(_tests(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
