"""Train POYO (the class of torch_brain 0.2) on any recording and export it as a bundle.

    python examples/train_poyo.py linear_track.npz --series position --within running -o BUNDLE

What is held out: the recording is cut into contiguous blocks; test blocks are never looked at, and
a gap of at least one window separates blocks of different use. When to stop is found by
cross-validation: the blocks of the training side take turns, each time the model is trained on the
others. Then it is trained on all of them for the number of steps at which R2 was highest over all
turns (mean over columns, causal and acausal).

Windows lie at random offsets, and queries at random times of the window and at its end, so that one
model serves causal decoding (asked at the end of the window) and acausal decoding (asked inside).
Units are dropped at random. Targets are normalised by training statistics, which are folded into
the read-out at export: the bundle speaks in the unit of the series.

A long run may be stopped with Ctrl-C and goes on where it was when called again.
Needs ``pip install 'attendrite[train]'``.
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attendrite import errors
from attendrite.evaluation import Samples, Split, draw_samples, inside, split_blocks
from attendrite.evaluation.samples import interpolate
from attendrite.exporter import export
from attendrite.files import written_whole
from attendrite.kernels.tokenize_poyo import SPIKE, Tokens, tokenize_poyo, window_ranges
from attendrite.recordings import Recording, read
from numpy.typing import NDArray
from torch import Tensor, nn
from tqdm import tqdm

try:
    from torch_brain.models import POYO
except ImportError:
    raise SystemExit(str(errors.missing_package("training", "torch_brain", "train"))) from None

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Options:
    """Everything that decides the result; written to the bundle's manifest."""

    series: str
    within: str | None
    blocks_of: str | None
    blocks: int
    test: tuple[int, ...]
    validation: tuple[tuple[int, ...], ...]
    spacing: float
    length: float
    latent_step: float
    latents: int
    dim: int
    depth: int
    dim_head: int
    heads: int
    t_min: float
    t_max: float
    steps: int
    every: int
    stop: int
    batch: int
    queries: int
    rate: float
    decay: float
    average: float
    unit_dropout: float
    spike_dropout: float
    jitter: float
    attention_dropout: float
    dropout: float
    seed: int


class Feed:
    """Random windows of a recording, and what the model is asked there."""

    def __init__(self, recording: Recording, options: Options, split: Split) -> None:
        self.recording, self.options = recording, options
        self.length = options.length
        truth = recording.series[options.series]
        self.at, self.values = truth.times, truth.values
        self.where = _extent(recording, options.within, truth.times)
        stretches = split.intervals("training")
        here = self.at[inside(self.at, self.where)]
        self.anchors = np.concatenate([here[(here >= a) & (here <= b)] for a, b in stretches])
        self.bounds = np.concatenate(
            [np.tile([a, b], (int(((here >= a) & (here <= b)).sum()), 1)) for a, b in stretches]
        )
        if not len(self.anchors):
            raise errors.must("training blocks", "hold samples", "none", "use fewer test blocks")
        known = interpolate(self.at, self.values, self.anchors)
        self.mean, self.scale = known.mean(0), known.std(0)

    def draw(self, rng: np.random.Generator) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """Return a batch, normalised targets ``[B, Q, D]``, and which queries count ``[B, Q]``."""
        o, n_units = self.options, len(self.recording.unit_ids)
        chosen = rng.integers(len(self.anchors), size=o.batch)
        first, last = self.bounds[chosen].T
        starts = self.anchors[chosen] - rng.uniform(0, self.length, o.batch)
        starts = np.clip(starts, first, np.maximum(first, last - self.length))
        queries = rng.uniform(0, self.length, (o.batch, o.queries))
        ends = max(1, o.queries // 4)
        queries[:, :ends] = self.length - rng.uniform(0, 0.03 * self.length, (o.batch, ends))
        at = starts[:, None] + queries
        targets = (interpolate(self.at, self.values, at) - self.mean) / self.scale
        counts = inside(at.ravel(), self.where).reshape(at.shape) & (at < last[:, None])
        # windows of every degree of dropout, none to twice the mean
        share = rng.uniform(0, 2 * o.unit_dropout, (o.batch, 1))
        kept = rng.random((o.batch, n_units)) >= share
        kept[~kept.any(1), 0] = True
        batch = self.batch(starts, queries, kept, rng)
        return batch, torch.from_numpy(targets).float(), torch.from_numpy(counts)

    def batch(
        self,
        starts: Floats,
        queries: Floats,
        kept: NDArray[np.bool_] | None = None,
        rng: np.random.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Return the model's arguments for windows at ``starts [B]`` asked at ``queries``."""
        spikes = self.recording.spikes
        begin, end = window_ranges(spikes.times, starts, self.length)
        tokens = tokenize_poyo(
            spikes.times, spikes.units, begin=begin, end=end, origin=starts, length=self.length,
            n_units=len(self.recording.unit_ids), window_units=kept, form="padded",
        )  # fmt: skip
        times, mask = tokens.time, tokens.mask
        assert mask is not None
        if rng is not None:
            times, mask = self._noisy(tokens, rng)
        steps = np.arange(0, self.length, self.options.latent_step) + self.options.latent_step / 2
        latents = np.repeat(steps, self.options.latents)
        which = np.tile(np.arange(self.options.latents), len(steps))
        arrays = {
            "input_unit_index": np.where(mask, tokens.unit + 1, 0),  # row 0 is padding
            "input_timestamps": times,
            "input_token_type": tokens.type.astype(np.int64),
            "input_mask": mask,
            "latent_index": np.broadcast_to(which, (len(starts), len(which))).copy(),
            "latent_timestamps": np.broadcast_to(latents, (len(starts), len(latents))).copy(),
            "session_index": np.ones(len(starts), np.int64),
            "output_timestamps": queries,
        }
        return {name: torch.from_numpy(np.ascontiguousarray(x)) for name, x in arrays.items()}

    def _noisy(self, tokens: Tokens, rng: np.random.Generator) -> tuple[Floats, NDArray[np.bool_]]:
        """Drop spikes, and move those that stay."""
        assert tokens.mask is not None
        spikes = tokens.mask & (tokens.type == SPIKE)
        share = rng.uniform(0, 2 * self.options.spike_dropout, (len(spikes), 1))
        lost = spikes & (rng.random(spikes.shape) < share)
        moved = tokens.time + spikes * rng.normal(0, 1, spikes.shape) * self.options.jitter
        return np.clip(moved, 0, self.length), tokens.mask & ~lost


class Run:
    """One training, which can be stopped at any step and continued."""

    def __init__(self, recording: Recording, options: Options, split: Split) -> None:
        o = options
        torch.manual_seed(o.seed)
        self.rng = np.random.default_rng(o.seed)
        self.options, self.feed = o, Feed(recording, o, split)
        self.model = POYO(
            sequence_length=o.length, latent_step=o.latent_step, num_latents_per_step=o.latents,
            dim_out=self.feed.values.shape[1], dim=o.dim, depth=o.depth, dim_head=o.dim_head,
            cross_heads=o.heads, self_heads=o.heads, ffn_dropout=o.dropout,
            atn_dropout=o.attention_dropout, t_min=o.t_min, t_max=o.t_max,
        )  # fmt: skip
        self.model.unit_emb.initialize_vocab(list(recording.unit_ids))
        self.model.session_emb.initialize_vocab([recording.session])
        self.average = copy.deepcopy(self.model).eval()
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=o.rate, weight_decay=o.decay)
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, o.rate, total_steps=o.steps, pct_start=0.1
        )
        self.step = 0

    def advance(self) -> float:
        """Take one step; return the loss."""
        batch, targets, counts = self.feed.draw(self.rng)
        self.model.train()
        error = (self.model(**batch) - targets).square().mean(-1)
        loss = (error * counts).sum() / counts.sum().clamp(min=1)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.schedule.step()
        self.step += 1
        keep = min(self.options.average, self.step / (self.step + 9))
        with torch.no_grad():
            pairs = zip(self.average.parameters(), self.model.parameters(), strict=True)
            for mean, value in pairs:
                mean.lerp_(value, 1 - keep)
        return float(loss.detach())

    def decode(self, times: Floats, place: float, size: int = 128) -> Floats:
        """Decode with the averaged weights, the query at ``place`` (0 to 1) of its window."""
        at = place * self.feed.length
        out = []
        with torch.inference_mode():
            for k in range(0, len(times), size):
                starts = times[k : k + size] - at
                batch = self.feed.batch(starts, np.full((len(starts), 1), at))
                out.append(self.average(**batch)[:, 0].numpy())
        return np.concatenate(out).astype(np.float64) * self.feed.scale + self.feed.mean

    def state(self) -> dict[str, Any]:
        """Return everything that decides the next step."""
        parts = ("model", "average", "optimizer", "schedule")
        # torch_brain takes the vocabularies out of a state_dict that it loads: save a copy
        return {name: dict(getattr(self, name).state_dict()) for name in parts} | {
            "step": self.step,
            "numpy": self.rng.bit_generator.state,
            "torch": torch.get_rng_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        for name in ("model", "average", "optimizer", "schedule"):
            getattr(self, name).load_state_dict(dict(state[name]))
        self.step = state["step"]
        self.rng.bit_generator.state = state["numpy"]
        torch.set_rng_state(state["torch"])


class Training:
    """Find the number of steps by cross-validation, then train on the whole training side."""

    def __init__(self, recording: Recording, options: Options, checkpoint: Path) -> None:
        self.recording, self.options, self.checkpoint = recording, options, checkpoint
        self.split = split_of(recording, options)
        self.folds = [self.split.fold(*blocks) for blocks in options.validation]
        self.errors: list[list[list[list[float]]]] = []  # [fold][look][causal, acausal][column]
        self.stopped = False

    def run(self) -> Run:
        """Train to the end.

        Raises:
            KeyboardInterrupt: Stopped; the same call goes on from the checkpoint.
        """
        saved = self._saved()
        before = signal.signal(signal.SIGINT, self._stop)
        try:
            for k in range(saved.get("fold", 0), len(self.folds)):
                self._cross_validate(k, saved.pop("run", None))
            return self._train(saved.get("run"))
        finally:
            signal.signal(signal.SIGINT, before)

    @property
    def log(self) -> list[dict[str, Any]]:
        """R2 on the validation samples of all folds together, for each number of steps."""
        if not self.folds:
            return []
        checks = [self._check(fold) for fold in self.folds]
        values = np.concatenate([check.values for check in checks])
        total = ((values - values.mean(0)) ** 2).sum(0)
        scores = 1 - np.array(self.errors).sum(0) / total  # [look, 2, D]
        return [
            {"step": step, "causal": row[0].round(4).tolist(), "acausal": row[1].round(4).tolist()}
            for step, row in zip(self._looks(), scores, strict=True)
        ]

    @property
    def best_step(self) -> int:
        """The number of steps that the folds chose; all of them without folds."""
        if self.options.stop or not self.folds:
            return self.options.stop or self.options.steps
        best = max(self.log, key=lambda row: float(np.mean(row["causal"] + row["acausal"])))
        return int(best["step"])

    def _looks(self) -> range:
        return range(self.options.every, self.options.steps + 1, self.options.every)

    def _cross_validate(self, k: int, state: dict[str, Any] | None) -> None:
        run, check = self._start(self.folds[k], state), self._check(self.folds[k])
        if state is None:
            self.errors.append([])
        title = f"fold {k + 1} of {len(self.folds)}"
        with tqdm(total=self._looks()[-1], initial=run.step, desc=title, disable=None) as bar:
            while run.step < self._looks()[-1]:
                self._advance(run, k, bar)
                if run.step in self._looks():
                    self.errors[k].append(_squared_errors(run, check))
                    self._save(run, k)

    def _train(self, state: dict[str, Any] | None) -> Run:
        run, last = self._start(self.split, state), self.best_step
        with tqdm(total=last, initial=run.step, desc="train", disable=None) as bar:
            while run.step < last:
                self._advance(run, len(self.folds), bar)
                if run.step % self.options.every == 0:
                    self._save(run, len(self.folds))
        return run

    def _check(self, fold: Split) -> Samples:
        return samples_of(self.recording, self.options, fold, "validation")

    def _start(self, split: Split, state: dict[str, Any] | None) -> Run:
        run = Run(self.recording, self.options, split)
        if state is not None:
            run.restore(state)
        return run

    def _advance(self, run: Run, fold: int, bar: Any) -> None:
        if self.stopped:
            self._save(run, fold)
            print(f"stopped; the same command goes on from {self.checkpoint}", file=sys.stderr)
            raise KeyboardInterrupt
        run.advance()
        bar.update()

    def _stop(self, *_: object) -> None:
        self.stopped = True  # after the step under way, which is never left half done

    def _save(self, run: Run, fold: int) -> None:
        table = {
            "options": _plain(self.options),
            "fold": fold,
            "run": run.state(),
            "errors": self.errors,
        }
        with written_whole(self.checkpoint) as beside:
            torch.save(table, beside)

    def _saved(self) -> dict[str, Any]:
        if not self.checkpoint.exists():
            return {}
        table: dict[str, Any] = torch.load(self.checkpoint, weights_only=True)
        if table["options"] != _plain(self.options):
            raise errors.must(
                str(self.checkpoint), "be of a run with these options", "others", "remove it"
            )
        self.errors = table["errors"]
        return table


def split_of(recording: Recording, options: Options) -> Split:
    """Cut the recording into blocks that hold equally many samples."""
    borders = draw_samples(
        recording, options.series, options.blocks_of or options.within,
        spacing=options.spacing, seed=0,
    )  # fmt: skip
    return split_blocks(
        borders.times, recording.domain, blocks=options.blocks, test=options.test,
        length=options.length,
    )  # fmt: skip


def samples_of(recording: Recording, options: Options, split: Split, role: str) -> Samples:
    """Return samples whose windows, asked at the end or the middle, lie in blocks of one use."""
    drawn = draw_samples(recording, options.series, options.within, spacing=options.spacing, seed=0)
    return drawn.within(split.intervals(role), options.length, options.length / 2)


def save(training: Training, run: Run, out: Path, force: bool) -> None:
    """Export the averaged weights, the normalisation folded into the read-out, with all facts."""
    state = copy.deepcopy(dict(run.average.state_dict()))
    scale, mean = torch.from_numpy(run.feed.scale), torch.from_numpy(run.feed.mean)
    weight, bias = state["readout.weight"].double(), state["readout.bias"].double()
    state["readout.weight"] = (weight * scale[:, None]).float()
    state["readout.bias"] = (bias * scale + mean).float()
    recording, options = training.recording, training.options
    rates = {
        u: round(float(r), 4) for u, r in zip(recording.unit_ids, recording.rates, strict=True)
    }
    facts = {
        "session": recording.session,
        "data": recording.source,
        "series": options.series,
        "columns": list(recording.series[options.series].columns),
        "unit": recording.series[options.series].unit,
        "test": training.split.intervals("test"),
        "split": training.split.to_json(),
        "unit_dropout": options.unit_dropout,
        "seeds": [options.seed],
        "steps": training.best_step,
        "target_mean": run.feed.mean.tolist(),
        "target_scale": run.feed.scale.tolist(),
        "rates_hz": rates,
        "options": _plain(options),
        "validation": training.log,
        "versions": {"torch": str(torch.__version__), "torch_brain": version("torch_brain")},
    }
    settings = {"sequence_length": options.length, "latent_step": options.latent_step}
    export(state, out, settings=settings, training=facts, force=force)


def _extent(recording: Recording, within: str | None, times: Floats) -> list[tuple[float, float]]:
    if within is None:
        return [(float(times[0]), float(times[-1]))]
    where = recording.intervals[within]
    return list(zip(where.start.tolist(), where.stop.tolist(), strict=True))


def _squared_errors(run: Run, check: Samples) -> list[list[float]]:
    """Sum of squared errors of each column on validation samples, causal and acausal."""
    places = (1.0, 0.5)
    return [((check.values - run.decode(check.times, p)) ** 2).sum(0).tolist() for p in places]


def _plain(options: Options) -> dict[str, Any]:
    """Return the options as JSON and checkpoints hold them."""
    table: dict[str, Any] = json.loads(json.dumps(dataclasses.asdict(options)))
    return table


def _blocks(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def arguments() -> argparse.ArgumentParser:
    """Build the command line; every field of :class:`Options` is an option."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("recording", type=Path)
    add("-o", "--output", type=Path, required=True, metavar="BUNDLE")
    add("--force", action="store_true", help="replace a bundle that is there")
    add("--threads", type=int, default=1)
    add("--series", required=True, help="what to decode")
    add("--within", help="intervals in which to decode; default everywhere")
    add(
        "--blocks-of", help="intervals whose samples the blocks share out equally; default --within"
    )
    add("--blocks", type=int, default=10, help="contiguous blocks of time")
    add("--test", type=int, nargs="+", default=[1, 4, 6, 9], help="blocks kept for the test")
    add("--validation", type=_blocks, nargs="*", metavar="N[,N...]",
        help="blocks, or groups of blocks, that take turns; default each but --test")  # fmt: skip
    add("--spacing", type=float, default=0.25, help="seconds between samples")
    add("--length", type=float, default=2.0, help="seconds of a window")
    add("--latent-step", type=float, default=0.25)
    add("--latents", type=int, default=4, help="latents per step")
    add("--dim", type=int, default=32)
    add("--depth", type=int, default=2)
    add("--dim-head", type=int, default=16)
    add("--heads", type=int, default=2)
    add(
        "--t-min", type=float, default=0.05, help="shortest period of the rotary embedding, seconds"
    )
    add("--t-max", type=float, default=6.0, help="longest period")
    add("--steps", type=int, default=1000)
    add("--every", type=int, default=100, help="steps between looks at the validation blocks")
    add("--stop", type=int, default=0, help="train this many of the steps, chosen before; no folds")
    add("--batch", type=int, default=32)
    add("--queries", type=int, default=8)
    add("--rate", type=float, default=4e-3, help="highest learning rate")
    add("--decay", type=float, default=0.1, help="weight decay")
    add("--average", type=float, default=0.99, help="of the moving average of the weights")
    add("--unit-dropout", type=float, default=0.2, help="mean share of units dropped")
    add("--spike-dropout", type=float, default=0.0)
    add("--jitter", type=float, default=0.0, help="of spike times, seconds")
    add("--attention-dropout", type=float, default=0.0)
    add("--dropout", type=float, default=0.2, help="of feed-forward layers")
    add("--seed", type=int, default=0)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Train, export, and print what the validation blocks said."""
    given = arguments().parse_args(argv)
    torch.set_num_threads(given.threads)
    names = [f.name for f in dataclasses.fields(Options)]
    if given.validation is None:
        given.validation = [(k,) for k in range(given.blocks) if k not in given.test]
    if given.stop:
        given.validation = []
    table = {name: getattr(given, name) for name in names}
    options = Options(**{k: tuple(v) if isinstance(v, list) else v for k, v in table.items()})
    checkpoint = given.output.with_name(given.output.name + ".checkpoint.pt")
    training = Training(read(given.recording), options, checkpoint)
    run = training.run()
    save(training, run, given.output, given.force)
    checkpoint.unlink(missing_ok=True)
    for row in training.log:
        print(json.dumps(row))
    print(f"{given.output}: {run.step} steps, seed {options.seed}")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except (errors.AttendriteError, OSError) as error:
        print(f"train_poyo: {error}", file=sys.stderr)
        sys.exit(2)
