"""Read-outs for a new animal: what a simulated animal reads is found again, the core stays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, Engine
from attendrite.__main__ import main
from attendrite.bundle import Manifest
from attendrite.evaluation.responses import single_trial_correlation
from attendrite.images import ImageBatch
from attendrite.models import check_weights, load
from attendrite.scans import Moments, Scan
from attendrite.transfer import Transferred, _fit, _search, _trials, transfer
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

NEURONS, TRIALS = 16, {"train": 240, "validation": 60, "test": 200}
IMAGE = [1, 16, 24]
CONFIG: Mapping[str, dict[str, Any]] = {
    "v1t": {
        "core": "vit", "input_shape": IMAGE, "center_crop": 1.0, "resize_image": False,
        "behavior_mode": 2, "shift_mode": 2, "patch_mode": 0, "patch_size": 4, "patch_stride": 2,
        "linear": False, "emb_dim": 12, "num_blocks": 1, "num_heads": 2, "mlp_dim": 24,
        "use_lsa": False,
    },
    "sensorium": {"input_shape": IMAGE, "linear": False, "layers": 2},
}  # fmt: skip
SIZED = {  # shapes that weights of a stacked core tell
    "core.features.layer0.conv.weight": (8, 4, 5, 5),
    "core.features.layer1.norm.weight": (8,),
    "core.features.layer1.ds_conv.spatial_conv.weight": (8, 1, 3, 3),
}

pytestmark = pytest.mark.usefixtures("one_thread")


def untrained(family: str, mice: Mapping[str, int], **config: Any) -> Bundle:
    """Random weights; mice with free positions and so many neurons."""
    rng = np.random.default_rng(0)
    units = [f"{mouse}/{i}" for mouse, count in mice.items() for i in range(count)]
    manifest = Manifest(
        family, "small", CONFIG[family] | config,
        {unit: row for row, unit in enumerate(units, 1)},
        {mouse: row for row, mouse in enumerate(mice, 1)},
    )  # fmt: skip
    model: Any = load(family)
    readout, features = model.names.readout, model.names.features
    known = {f"{readout.format(m)}.bias": torch.zeros(n) for m, n in mice.items()}
    known |= {f"{readout.format(m)}._mu": torch.zeros(1, n, 1, 2) for m, n in mice.items()}
    if family == "sensorium":
        known |= {name: torch.zeros(shape) for name, shape in SIZED.items()}
        known |= {"shifter.A.mlp.0.weight": torch.zeros(5, 2)}
    shapes = model.shapes(manifest, known)
    weights = {}
    for name, shape in sorted(shapes.items()):
        if name.endswith((".reg_scale", ".max_shift", ".keep_prop", "one", "laplace.filter")):
            continue
        if name.startswith("core.gamma"):
            continue
        values = rng.normal(size=shape) * np.prod(shape[1:]) ** -0.5
        if name.endswith("_mu"):
            values = rng.uniform(-0.8, 0.8, shape)
        elif name.endswith(("norm.weight", "running_var")):
            values = np.ones(shape)
        elif name.endswith("mha.scale"):
            values = np.full(shape, CONFIG[family]["emb_dim"] ** -0.5)
        elif name.endswith(features):
            values = rng.normal(size=shape) * shape[1] ** -0.5
        elif name.endswith(("mlp.4.weight", "mlp.4.bias")):
            values *= 0.2 * name.endswith("weight")  # of a shifter, small
        elif "b-mlp" in name:
            values *= 0.3  # or all is behaviour
        elif name.endswith("layer0.conv.weight"):
            values[:, 1:] *= 0.1
        elif name == "image_cropper.grid":
            y, x = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape[1:3]), indexing="ij")
            values = np.stack([x, y], -1)[None]
        weights[name] = torch.from_numpy(np.asarray(values, np.float32))
    bundle = Bundle(manifest, weights)
    check_weights(bundle)
    return bundle


@dataclass(frozen=True)
class Animal:
    """A simulated animal whose read-out is known.

    Attributes:
        bundle: Without it.
        truth: With it, as mouse T.
        scan: Its scan.
        data: Of the scan, which may be changed.
        batch: All trials.
        rates: True, ``[T, N]``, of unscaled responses.
    """

    bundle: Bundle
    truth: Bundle
    scan: Scan
    data: dict[str, NDArray[Any]]
    batch: ImageBatch
    rates: NDArray[Any]


def without(bundle: Bundle, mouse: str) -> Bundle:
    old = bundle.manifest
    units = {unit: row for unit, row in old.units.items() if not unit.startswith(f"{mouse}/")}
    sessions = {name: row for name, row in old.sessions.items() if name != mouse}
    weights = {name: t for name, t in bundle.weights.items() if f".{mouse}." not in name}
    return Bundle(replace(old, units=units, sessions=sessions), weights)


def driven(bundle: Bundle, batch: ImageBatch) -> Bundle:
    """Scale a mouse's read-out, so that each drive has mean 0 and standard deviation 1."""
    weights = dict(bundle.weights)
    bias = next(name for name in weights if name.endswith(f".{batch.mouse}.bias"))
    weights[bias] = torch.full_like(weights[bias], 1000.0)  # where rates are linear
    drive = Engine(Bundle(bundle.manifest, weights), dtype="float64").run(batch).prediction
    assert isinstance(drive, np.ndarray)
    sd = torch.from_numpy(drive.std(0)).float()
    weights[bias] = (1001.0 - torch.from_numpy(drive.mean(0)).float()) / sd
    model: Any = load(bundle.manifest.family)
    features = f"{bias.removesuffix('bias')}{model.names.features}"
    weights[features] = weights[features] / sd
    return Bundle(bundle.manifest, weights)


def simulate(family: str, **config: Any) -> Animal:
    """Responses of known read-outs on a random core: about four spikes, with Poisson noise."""
    truth = untrained(family, {"A": 5, "T": NEURONS}, **config)
    rng, count = np.random.default_rng(1), sum(TRIALS.values())
    tiers = np.repeat(list(TRIALS), list(TRIALS.values()))
    shown = gaussian_filter(rng.normal(size=(count, *IMAGE)), (0, 0, 1, 1))
    data: dict[str, NDArray[Any]] = {
        "images": (shown * 100 + 120).astype(np.float32),
        "behavior": rng.uniform(10, 40, (count, 3)).astype(np.float32),
        "pupil_center": rng.normal(200, 15, (count, 2)).astype(np.float32),
    }

    def moments(name: str) -> Moments:
        axes = None if name == "images" else 0
        values = data[name].astype(np.float64)
        return Moments(np.asarray(values.mean(axes)), np.asarray(values.std(axes)))

    scan = Scan(
        "day1", "day1", "1", np.arange(NEURONS), rng.normal(size=(NEURONS, 3)), tiers,
        np.arange(count), np.arange(count), (1, 16, 24), {name: moments(name) for name in data},
        lambda name, trial: data[name][trial],
    )  # fmt: skip
    process = scan.preprocessing
    batch = ImageBatch(
        process.images(data["images"]), "T", process.behavior(data["behavior"]),
        process.pupil(data["pupil_center"]),
    )  # fmt: skip
    truth = driven(truth, batch)
    rates = 4 * Engine(truth).run(batch).prediction
    data["responses"] = rng.poisson(rates).astype(np.float32)
    scan = replace(scan, moments={name: moments(name) for name in data})
    return Animal(without(truth, "T"), truth, scan, data, batch, rates)


@pytest.fixture(scope="module")
def animals() -> dict[str, Animal]:
    return {family: simulate(family) for family in CONFIG}


@pytest.fixture(scope="module")
def fits(
    animals: dict[str, Animal], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, tuple[Transferred, Path]]:
    room = tmp_path_factory.mktemp("transfer")
    return {
        family: (
            transfer(
                own.bundle, own.scan, "new", room / family, control=family == "sensorium"
            ), room / family,
        )
        for family, own in animals.items()
    }  # fmt: skip


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two epochs are enough."""
    monkeypatch.setattr(_fit, "EPOCHS", 2)


def places(bundle: Bundle, mouse: str, batch: ImageBatch) -> NDArray[Any]:
    """Where neurons read on average over trials, ``[N, 2]``."""
    model: Any = Engine(bundle, executor="torch").model
    shift = model.shift(model.inputs(replace(batch, mouse=mouse)))
    found: NDArray[Any] = (model.positions(mouse)[0] + shift.mean(0)).numpy()
    return found


@pytest.mark.parametrize("family", CONFIG)
class TestSimulatedAnimals:
    def test_what_it_reads_is_found_again(self, animals: Any, fits: Any, family: str) -> None:
        own, (found, _) = animals[family], fits[family]
        test = own.scan.trials("test")
        ceiling = single_trial_correlation(own.data["responses"][test], own.rates[test])
        assert ceiling.mean() == pytest.approx(0.82, abs=0.02)
        assert found.correlation["test"].mean() > 0.93 * ceiling.mean()
        assert found.correlation["test"].min() > 0.6
        wrong = places(found.bundle, "new", own.batch) - places(own.truth, "T", own.batch)
        assert np.median(np.abs(wrong)) < 0.03  # a place of the search is 0.1 to 0.33 apart
        assert (np.abs(wrong) < 0.15).all(1).mean() > 0.8

    def test_the_engine_predicts_what_was_scored(
        self, animals: Any, fits: Any, family: str
    ) -> None:
        own, (found, out) = animals[family], fits[family]
        engine = Engine(out)
        assert list(engine.manifest.sessions) == ["A", "new"]
        assert list(engine.manifest.units)[-1] == f"new/{NEURONS - 1}"
        standardised = engine.run(replace(own.batch, mouse="new")).prediction
        raw = ImageBatch(
            own.data["images"], "new", own.data["behavior"].astype(float),
            own.data["pupil_center"].astype(float), raw=True,
        )  # fmt: skip
        np.testing.assert_allclose(engine.run(raw).prediction, standardised, atol=1e-4)
        for tier, scored in found.correlation.items():
            trials = own.scan.trials(tier)
            r = single_trial_correlation(own.data["responses"][trials], standardised[trials])
            np.testing.assert_allclose(r, scored, atol=1e-4)

    def test_the_rest_stays(self, animals: Any, fits: Any, family: str) -> None:
        own, (_, out) = animals[family], fits[family]
        saved = Bundle.load(out)
        for name, tensor in own.bundle.weights.items():
            assert torch.equal(saved.weights[name], tensor), name
        assert all(".new." in name for name in set(saved.weights) - set(own.bundle.weights))
        batch = replace(own.batch.part(0, 20), mouse="A")
        before, after = (Engine(each).run(batch).prediction for each in (own.bundle, saved))
        np.testing.assert_array_equal(after, before)

    def test_the_manifest_tells_how(self, fits: Any, family: str) -> None:
        found, out = fits[family]
        facts = Bundle.load(out).manifest.training["transfers"]["new"]
        assert facts["trials"] == TRIALS
        assert facts["curve"] == found.curve
        scores = [row["validation"] for row in found.curve]
        assert found.curve[0]["loss"] is None
        assert max(scores) == pytest.approx(found.correlation["validation"].mean())
        assert max(scores) > scores[0] + 0.01  # better than the search alone
        rates = [row["rate"] for row in found.curve]
        assert sorted({round(rate, 9) for rate in rates}) == [0.00045, 0.0015, 0.005]
        assert len(scores) - 1 - scores.index(max(scores)) >= 5

    def test_places_are_drawn_in_training(self, fits: Any, family: str) -> None:
        found, _ = fits[family]
        name = next(n for n in found.bundle.weights if n.endswith("new.sigma"))
        wide = found.bundle.weights[name].abs().amax((0, 2, 3))
        assert (wide > 0).all()
        assert wide.median() < 0.05  # it shrinks from at least 0.1 to where places are known

    def test_the_shifter_is_found(self, animals: Any, fits: Any, family: str) -> None:
        own, (found, _) = animals[family], fits[family]
        moved = []
        for bundle, mouse in ((own.truth, "T"), (found.bundle, "new")):
            model: Any = Engine(bundle, executor="torch").model
            moved.append(model.shift(model.inputs(replace(own.batch, mouse=mouse)))[:, 0].numpy())
        assert np.corrcoef(*moved)[0, 1] > 0.9


def test_shuffled_responses_are_not_predicted(fits: Any) -> None:
    shuffled = fits["sensorium"][0].shuffled
    assert abs(shuffled["test"].mean()) < 0.08
    assert abs(shuffled["validation"].mean()) < 0.08
    assert fits["v1t"][0].shuffled is None  # not asked


def test_the_loss_is_poissons_with_an_l1_norm(
    animals: dict[str, Animal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is learned and no place drawn, so that the loss is that of the start."""
    monkeypatch.setattr(_fit, "RATE", 0.0)
    monkeypatch.setattr(_fit, "EPOCHS", 1)
    monkeypatch.setattr(_fit, "BATCH", TRIALS["train"] // 4)
    search = _search.search

    def still(*given: Any) -> _search.Start:
        return search(*given)._replace(apart=torch.zeros(2))

    monkeypatch.setattr(_fit, "search", still)
    own = animals["sensorium"]
    found = transfer(own.bundle, own.scan, "new", tmp_path / "out")
    train = own.scan.trials("train")
    batch = replace(own.batch.part(0, len(train)), mouse="new")
    r = np.asarray(Engine(found.bundle, dtype="float64").run(batch).prediction) + 2.0**-23
    t = own.scan.preprocessing.responses(own.data["responses"][train]) + 2.0**-23
    norm = found.bundle.weights["readout.new._features"].double().abs().sum().item()
    expected = np.sqrt(4) * (r - t * np.log(r)).sum() / 4 + 0.0076 * norm
    assert found.curve[1]["loss"] == pytest.approx(expected, rel=1e-5)


def test_the_search_alone(animals: dict[str, Animal]) -> None:
    """Of features that lie on the grid, it finds the place and the weights."""
    rng = np.random.default_rng(3)
    features = rng.normal(size=(2000, 3, 4, 2)).astype(np.float32)
    drive = np.stack(
        [features[:, 1, 3] @ [0.4, -0.2], features[:, 2, 0] @ [0.0, 0.5] - 0.3], 1
    )  # fmt: skip
    rates = np.where(drive > 0, drive + 1, np.exp(drive))
    found = _search.search(features, rates.astype(np.float32), torch.zeros(1))
    np.testing.assert_allclose(found.mu, [[1, 0], [-1, 1]], atol=1e-6)
    np.testing.assert_allclose(found.features, [[0.4, 0.0], [-0.2, 0.5]], atol=0.08)
    np.testing.assert_allclose(found.bias, [0, -0.3], atol=0.15)
    np.testing.assert_allclose(found.apart, [2 / 3, 1])


def test_a_place_is_judged_on_trials_that_it_was_not_fitted_to() -> None:
    """Twenty features of noise fit 30 trials better than the one that matters."""
    rng = np.random.default_rng(4)
    features = np.zeros((60, 1, 2, 20), np.float32)
    features[:, 0, 0] = rng.normal(size=(60, 20))
    features[:, 0, 1, 5] = rng.normal(size=60)
    targets = 2 + 0.4 * features[:, 0, 1, 5:6] + rng.normal(size=(60, 40)) * 0.5
    found = _search.search(features, targets.astype(np.float32), torch.zeros(1))
    assert (found.mu[:, 0] == 1).float().mean() > 0.9


@pytest.mark.usefixtures("short")
class TestFiles:
    def test_same_seed_same_bytes(
        self, animals: dict[str, Animal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        own = animals["sensorium"]
        for name, seed, kept in (("a", 7, _trials.KEPT), ("b", 7, 1 << 10), ("c", 8, 1 << 10)):
            monkeypatch.setattr(_trials, "KEPT", kept)  # beyond it in a file
            transfer(own.bundle, own.scan, "new", tmp_path / name, seed=seed)
        files = {
            name: [(tmp_path / name / f).read_bytes() for f in ("weights.safetensors",
                                                                "manifest.json")]
            for name in "abc"
        }  # fmt: skip
        assert files["a"] == files["b"]
        assert files["a"][0] != files["c"][0]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "c"]

    def test_one_mouse_after_the_other(self, animals: dict[str, Animal], tmp_path: Path) -> None:
        own = animals["sensorium"]
        transfer(own.bundle, own.scan, "B", tmp_path / "b")
        found = transfer(tmp_path / "b", own.scan, "C", tmp_path / "c").bundle
        assert dict(found.manifest.sessions) == {"A": 1, "B": 2, "C": 3}
        assert len(found.manifest.units) == 5 + 2 * NEURONS
        assert set(found.manifest.training["transfers"]) == {"B", "C"}
        assert set(found.manifest.training["statistics"]) == {"B", "C"}

    def test_images_are_not_moved(self, tmp_path: Path) -> None:
        """No gradient reaches the shifter of images, so it is 0; that of the read-out learns."""
        own = simulate("v1t", shift_mode=3, behavior_mode=0)
        found = transfer(own.bundle, own.scan, "new", tmp_path / "out").bundle.weights
        theirs = {n: t for n, t in found.items() if n.startswith("image_cropper.image_shifter.new")}
        assert len(theirs) == 6
        assert not any(t.any() for t in theirs.values())
        assert found["core_shifter.new.mlp.4.weight"].any()

    def test_withheld_responses(self, animals: dict[str, Animal], tmp_path: Path) -> None:
        own = animals["sensorium"]
        data = dict(own.data)
        data["responses"] = data["responses"] * (own.scan.tiers != "test")[:, None]
        scan = replace(
            own.scan, trial_ids=own.scan.trial_ids.astype(str), load=lambda n, i: data[n][i]
        )
        found = transfer(own.bundle, scan, "new", tmp_path / "out")
        assert list(found.correlation) == ["validation"]

    def test_interrupted(
        self, animals: dict[str, Animal], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def stopped(*given: Any) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(_trials, "KEPT", 0)
        monkeypatch.setattr(_fit.Fit, "_epoch", stopped)
        own = animals["sensorium"]
        with pytest.raises(KeyboardInterrupt):
            transfer(own.bundle, own.scan, "new", tmp_path / "out")
        assert list(tmp_path.iterdir()) == []


def lacking(scan: Scan, *names: str) -> Scan:
    moments = {name: own for name, own in scan.moments.items() if name not in names}
    return replace(scan, moments=moments)


def renamed(scan: Scan, tier: str, name: str) -> Scan:
    return replace(scan, tiers=np.where(scan.tiers == tier, name, scan.tiers))


def constant(scan: Scan, neurons: Sequence[int], *tiers: str) -> Scan:
    """The scan, with neurons that always respond alike in some tiers."""
    trials = range(len(scan))
    responses = np.stack([scan.load("responses", trial) for trial in trials])
    responses[np.ix_(np.isin(scan.tiers, tiers), np.array(neurons))] = 0.1
    moments = Moments(responses.mean(0, np.float64), responses.std(0, np.float64))
    return replace(
        scan, moments={**scan.moments, "responses": moments},
        load=lambda name, i: responses[i] if name == "responses" else scan.load(name, i),
    )  # fmt: skip


@pytest.mark.usefixtures("short")
class TestNeuronsThatDoNotVary:
    @pytest.mark.parametrize("family", CONFIG)
    def test_means_leave_them_out(
        self, animals: dict[str, Animal], tmp_path: Path, family: str
    ) -> None:
        own = animals[family]
        scan = constant(own.scan, [3], *TRIALS)
        found = transfer(own.bundle, scan, "new", tmp_path / "out", control=True)
        facts = found.bundle.manifest.training["transfers"]["new"]
        for name, by_tier in (("correlation", found.correlation), ("shuffled", found.shuffled)):
            assert by_tier is not None
            for tier, r in by_tier.items():
                assert np.flatnonzero(np.isnan(r)).tolist() == [3]
                assert facts[name][tier] == pytest.approx(np.delete(r, 3).mean(), rel=1e-12)
        best = max(row["validation"] for row in found.curve if row["validation"] is not None)
        assert best == pytest.approx(np.delete(found.correlation["validation"], 3).mean())
        assert np.delete(found.correlation["test"], 3).min() > 0.5
        shown = np.asarray(Engine(found.bundle).run(replace(own.batch, mouse="new")).prediction)
        assert np.isfinite(shown).all()

    @pytest.mark.parametrize(
        ("tiers", "said"),
        [(["validation"], "2 in validation"), (tuple(TRIALS), "2 in validation, 2 in test")],
    )
    def test_the_command_counts_them(
        self, animals: dict[str, Animal], tmp_path: Path, capsys: pytest.CaptureFixture[str],
        tiers: Sequence[str], said: str,
    ) -> None:  # fmt: skip
        own = animals["sensorium"]
        own.bundle.save(tmp_path / "old")
        scan = constant(own.scan, [3, 5], *tiers)
        words = ["--data", str(write(scan, tmp_path / "scan")), "--mouse", "B", "--threads", "1"]
        out = str(tmp_path / "out")
        assert main(["transfer", str(tmp_path / "old"), *words, "-o", out]) == 0
        lines = capsys.readouterr().out.splitlines()
        facts = Bundle.load(out).manifest.training["transfers"]["B"]["correlation"]
        assert lines[2].split() == ["fitted", *(f"{r:.3f}" for r in facts.values())]
        told = f"not testable, as their responses do not vary: {said}"
        assert lines[3:] == [told, f"written to {out}"]


WRONG: list[tuple[Any, str, str]] = [
    (lambda s: s, "A", "the mouse must be new to the bundle, got 'A'"),
    (lambda s: s, "a.b", "a mouse's name must have letters, digits, - and _ alone, got 'a.b'"),
    (lambda s: renamed(s, "train", "other"), "B", "must have train trials, got other, test, valid"),
    (lambda s: renamed(s, "validation", "x"), "B", "must have validation trials, got test, train"),
    (
        lambda s: replace(s, tiers=np.where(s.trial_ids == 0, "validation", "train")), "B",
        "validation trials must be at least two, got 1",
    ),
    (lambda s: lacking(s, "behavior"), "B", "behavior must be given, the model reads it, got none"),
    (lambda s: lacking(s, "pupil_center"), "B", "pupil must be given, the model reads it, got non"),
    (
        lambda s: replace(
            s, image_shape=(1, 9, 9), load=lambda n, i: s.load(n, i)[..., :9, :9]
            if n == "images" else s.load(n, i),
        ), "B", r"images must have shape \[B, 1, 16, 24\], got \[16, 1, 9, 9\]; cut or resize",
    ),
    (
        lambda s: replace(s, load=lambda n, i: -s.load(n, i)), "B",
        "responses must be 0 or more, as rates are, got -",
    ),
    (
        lambda s: replace(s, load=lambda n, i: 0 * s.load(n, i) + 3), "B",
        "train responses must vary in one neuron at least, got constant ones",
    ),
    (lambda s: constant(s, range(NEURONS), "validation"), "B", "^validation responses must vary"),
    (lambda s: constant(s, range(NEURONS), "test"), "B", "^test responses must vary"),
]  # fmt: skip


@pytest.mark.parametrize("family", CONFIG)
@pytest.mark.parametrize(("damage", "mouse", "words"), WRONG)
def test_what_does_not_fit_is_refused(
    animals: dict[str, Animal], tmp_path: Path, family: str, damage: Any, mouse: str, words: str
) -> None:
    own = animals[family]
    with pytest.raises(AttendriteError, match=words) as caught:
        transfer(own.bundle, damage(own.scan), mouse, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_models_and_folders_that_do_not_fit(animals: dict[str, Animal], tmp_path: Path) -> None:
    own = animals["v1t"]
    by_mouse = untrained("v1t", {"A": 5}, behavior_mode=4)
    with pytest.raises(AttendriteError, match="the core must be the same for all mice, got behavi"):
        transfer(by_mouse, own.scan, "B", tmp_path / "out")
    spikes = replace(own.bundle, manifest=replace(own.bundle.manifest, family="poyo"))
    with pytest.raises(
        AttendriteError, match="must be one core with read-outs of images, got a poyo"
    ):
        transfer(spikes, own.scan, "B", tmp_path / "out")
    with pytest.raises(AttendriteError, match="seed must be at least 0, got -1"):
        transfer(own.bundle, own.scan, "B", tmp_path / "out", seed=-1)
    with pytest.raises(AttendriteError, match="threads must be at least 1, got 0"):
        transfer(own.bundle, own.scan, "B", tmp_path / "out", threads=0)
    with pytest.raises(AttendriteError, match="must exist, got none; make it first"):
        transfer(own.bundle, own.scan, "B", tmp_path / "no" / "out")
    (tmp_path / "there").mkdir()
    with pytest.raises(AttendriteError, match="must not exist, got a file or folder"):
        transfer(own.bundle, own.scan, "B", tmp_path / "there")
    with pytest.raises(AttendriteError, match="must be a bundle to be replaced"):
        transfer(own.bundle, own.scan, "B", tmp_path / "there", force=True)


def write(scan: Scan, root: Path) -> Path:
    """Write a scan as a folder."""
    files: dict[str, Any] = {
        "meta/neurons/unit_ids": scan.unit_ids,
        "meta/neurons/animal_ids": np.full(len(scan.unit_ids), 1),
        "meta/neurons/cell_motor_coordinates": scan.positions,
        "meta/trials/tiers": scan.tiers,
        "meta/trials/trial_idx": scan.trial_ids,
        "meta/trials/frame_image_id": scan.image_ids,
    }
    for name, own in scan.moments.items():
        files |= {f"meta/statistics/{name}/all/{m}": getattr(own, m) for m in ("mean", "std")}
        files |= {f"data/{name}/{trial}": scan.load(name, trial) for trial in range(len(scan))}
    for name, values in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(root / f"{name}.npy", values)
    return root


@pytest.mark.usefixtures("short")
def test_the_command(
    animals: dict[str, Animal], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = animals["sensorium"]
    own.bundle.save(tmp_path / "old")
    scan, out = write(own.scan, tmp_path / "scan"), tmp_path / "out"
    given = ["transfer", str(tmp_path / "old"), "--data", str(scan), "--mouse", "B", "-o", str(out)]
    assert main([*given, "--control", "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    facts = Bundle.load(out).manifest.training["transfers"]["B"]
    assert lines[0] == "16 neurons of mouse B; trials: 240 train, 60 validation, 200 test"
    assert lines[1].split() == ["single-trial", "correlation", "validation", "test"]
    for line, name, key in zip(lines[2:4], ("fitted", "responses shuffled"),
                               ("correlation", "shuffled"), strict=True):  # fmt: skip
        assert line.startswith(name)
        assert line.split()[-2:] == [f"{facts[key][t]:.3f}" for t in ("validation", "test")]
    assert lines[4] == f"written to {out}"
    assert main(given) == 2
    assert capsys.readouterr().err.startswith(f"attendrite transfer: {out} must not exist")
    assert main([*given, "--force"]) == 0
    assert "shuffled" not in capsys.readouterr().out
