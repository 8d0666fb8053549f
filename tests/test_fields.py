"""Receptive fields: against a known model, V1T's own code, and themselves when interrupted."""

from __future__ import annotations

import copy
import hashlib
import itertools
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, Engine, shards
from attendrite.fields import (
    EngineResponder,
    Fields,
    FieldSums,
    Halves,
    ImageFile,
    Noise,
    Screen,
    Settings,
    job,
    receptive_fields,
    statistics,
)
from attendrite.fields import sums as field_sums
from attendrite.fields.significance import peak_test
from attendrite.fields.sums import halves
from attendrite.fields.v1t_fits import fit_v1t
from attendrite.kernels.noise import KINDS
from attendrite.kernels.noise_sum import Sums, noise_sum
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
TESTS = Path(__file__).parent
sys.path.insert(0, str(TESTS))  # workers import the model by this name, from this path

from _field_models import LinearNonlinear  # noqa: E402

MODEL = LinearNonlinear()
KNOWN = MODEL.units - MODEL.at_random
SENSORIUM = "26872-17-20"

pytestmark = pytest.mark.usefixtures("compiled_fits", "one_thread")


@pytest.fixture(autouse=True)
def path_of_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(TESTS))


def work(count: int = 5000, kind: str = "gaussian", seed: int = 0, **model: Any) -> FieldSums:
    responder = LinearNonlinear(**model)
    return FieldSums(responder, Noise(kind, seed, count, responder.shape))


def computed(job_: FieldSums) -> Halves:
    return halves(job_, map(job_.run, range(job_.shards)))


def measured(job_: FieldSums) -> statistics.Measures:
    return statistics.measures(computed(job_), job_.stimuli)


def expected(function: Any) -> float:
    """Mean of a function of a standard normal number."""
    x, weights = np.polynomial.hermite_e.hermegauss(100)
    return float((function(x) * weights).sum() / weights.sum())


@pytest.fixture(scope="module")
def large() -> statistics.Measures:
    return measured(work(40_000))


class TestKnownModel:
    """For gaussian noise the field is the filter times the mean slope (Bussgang, Price)."""

    drive = staticmethod(lambda x: MODEL.gain * x - 0.5)
    slope = MODEL.gain * expected(lambda x: 1 / (1 + np.exp(-(MODEL.gain * x - 0.5))))
    mean = expected(lambda x: np.logaddexp(0, MODEL.gain * x - 0.5))
    variance = expected(lambda x: np.logaddexp(0, MODEL.gain * x - 0.5) ** 2) - mean**2

    def test_field_and_its_error(self, large: statistics.Measures) -> None:
        apart = large.field[:KNOWN] - self.slope * MODEL.filters[:KNOWN]
        z = apart / large.standard_error[:KNOWN, None]
        assert np.abs(z).max() < 5
        # Of pixels that matter little: those of large weight have a larger error.
        small = np.abs(MODEL.filters[:KNOWN]) < 0.05
        n = small.sum()
        assert abs((z[small] ** 2).mean() - 1) < 5 * np.sqrt(2 / n)

    def test_response(self, large: statistics.Measures) -> None:
        error = np.sqrt(self.variance / 40_000)
        np.testing.assert_allclose(large.mean[:KNOWN], self.mean, atol=5 * error)
        np.testing.assert_allclose(large.variance[:KNOWN], self.variance, rtol=0.06)
        np.testing.assert_allclose(large.standard_error**2 * 40_000, large.variance, rtol=1e-12)

    def test_linear_share(self, large: statistics.Measures) -> None:
        share = self.slope**2 / self.variance
        assert 0.8 < share < 0.95  # what softplus leaves
        np.testing.assert_allclose(large.linear[:KNOWN], share, atol=0.03)

    def test_units_at_random(self, large: statistics.Measures) -> None:
        field = large.field[KNOWN:] / large.standard_error[KNOWN:, None]
        assert abs((field**2).mean() - 1) < 5 * np.sqrt(2 / field.size)
        assert np.abs(large.linear[KNOWN:]).max() < 5 * large.linear_error
        assert np.abs(large.split_half[KNOWN:]).max() < 5 / np.sqrt(field.shape[1])
        assert large.linear_error == pytest.approx(np.sqrt(96) / 20_000)

    def test_split_half(self, large: statistics.Measures) -> None:
        for u in range(MODEL.units):
            truth = np.corrcoef(large.even[u], large.odd[u])[0, 1]
            np.testing.assert_allclose(large.split_half[u], truth, rtol=1e-5, atol=1e-6)
        assert large.split_half[:KNOWN].min() > 0.95

    @pytest.mark.parametrize("kind", ["uniform", "binary"])
    def test_other_noise(self, kind: str, large: statistics.Measures) -> None:
        found = measured(work(20_000, kind))
        for u in range(KNOWN):
            assert np.corrcoef(found.field[u], MODEL.filters[u])[0, 1] > 0.95
        assert np.abs(found.linear[KNOWN:]).max() < 5 * found.linear_error
        np.testing.assert_allclose(found.linear[:KNOWN], large.linear[:KNOWN], atol=0.05)

    def test_share_is_without_bias(self) -> None:
        """At a thousand images a field is mostly noise; its own square would say 0.9 more."""
        some = [measured(work(1000, seed=seed, at_random=0, units=4)).linear for seed in range(12)]
        share = self.slope**2 / self.variance
        error = np.std(some) / np.sqrt(len(some))
        assert abs(np.mean(some) - share) < 5 * error
        assert error < 0.02


class TestUnitsWithoutAField:
    def test_constant_units(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """They have field 0 and no z, whatever rounding leaves of their constant."""
        plain = LinearNonlinear.responses

        def some(self: Any, images: torch.Tensor) -> torch.Tensor:
            out = plain(self, images)
            out[:, 0], out[:, 1] = 0.7, 0
            return out

        monkeypatch.setattr(LinearNonlinear, "responses", some)
        found = measured(work(3000))
        assert (found.field[:2] == 0).all()
        assert (found.standard_error[:2] == 0).all()
        assert np.isnan([found.split_half[:2], found.linear[:2]]).all()
        assert not np.isnan(found.field).any()
        assert (found.standard_error[2:] > 0).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_false_positives_of_the_peak(self, kind: str) -> None:
        """Responses that have nothing to do with the noise, and are far from normal."""
        count, units, pixels = 3000, 2000, 96
        stimuli = Noise(kind, 3, count, (1, 8, 12))
        responses = torch.from_numpy(
            np.random.default_rng(0).exponential(size=(count, units)).astype(np.float32)
        )
        found = Halves(Sums.zeros(units, pixels), Sums.zeros(units, pixels))
        images = stimuli.images(0, count, 1).reshape(count, pixels)
        noise_sum(responses[:1500], images[:1500], found.even)
        noise_sum(responses[1500:], images[1500:], found.odd)
        said = statistics.measures(found, stimuli)
        tested = peak_test(said.field / said.standard_error[:, None])
        rate, error = tested.significant.mean(), np.sqrt(0.05 * 0.95 / units)
        assert 0.05 - 5 * error < rate < 0.05 + 4 * error
        assert (tested.q_value < 0.05).sum() <= 2


class TestSums:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("count", [2, 777, 5000])
    def test_against_float64(self, kind: str, count: int) -> None:
        job_ = work(count, kind)
        found = computed(job_)
        x = job_.stimuli.images(0, count, 1)
        r = MODEL.responses(x)
        x = x.reshape(count, -1)
        even = torch.zeros(count, dtype=torch.bool)
        for shard in range(0, job_.shards, 2):
            even[slice(*job_.bounds(shard))] = True
        for half, part in ((found.even, even), (found.odd, ~even)):
            wide = r[part].double(), x[part].double()
            exact = wide[0].T @ wide[1]
            plain = (r[part].T @ x[part]).double()
            allowed = 2 * (plain - exact).abs().max() + 1e-6 * exact.abs().max()
            assert (half.products - exact).abs().max() <= allowed
            assert half.count == int(part.sum())
            sums = [half.responses, half.response_squares, half.pixels, half.pixel_squares]
            direct = [wide[0].sum(0), (wide[0] ** 2).sum(0), wide[1].sum(0), (wide[1] ** 2).sum(0)]
            for y, z in zip(sums, direct, strict=True):
                torch.testing.assert_close(y, z, rtol=1e-12, atol=1e-9)

    def test_noise_has_mean_0_and_variance_1(self) -> None:
        for kind in KINDS:
            pixels = Noise(kind, 0, 3000, (1, 10, 10)).images(0, 3000, 1).double()
            assert abs(pixels.mean()) < 5 / np.sqrt(3e5)
            assert abs((pixels**2).mean() - 1) < 5 * np.sqrt(2 / 3e5)

    @pytest.mark.parametrize("count", [2, 3, 1024, 2047, 5000, 100_000, 10_000_001])
    def test_shards_are_two_halves_of_all_images(self, count: int) -> None:
        job_ = work(count)
        bounds = [job_.bounds(shard) for shard in range(job_.shards)]
        assert bounds[0][0] == 0
        assert bounds[-1][1] == count
        assert all(a[1] == b[0] for a, b in itertools.pairwise(bounds))
        sizes = [stop - start for start, stop in bounds]
        assert max(sizes) - min(sizes) <= 1
        assert job_.shards % 2 == 0
        assert job_.shards <= field_sums.MOST
        assert min(sizes) >= min(field_sums.BLOCK, count // 2)

    def test_shards_fit_the_disk(self, monkeypatch: pytest.MonkeyPatch) -> None:
        assert work(100_000).shards == 64
        monkeypatch.setattr(field_sums, "DISK", 11 * work().bytes)
        assert work(100_000).shards == 10

    def test_a_response_that_is_not_finite(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(self: Any, images: torch.Tensor) -> torch.Tensor:
            out = torch.zeros(len(images), self.units)
            out[3, 4] = torch.inf
            return out

        monkeypatch.setattr(LinearNonlinear, "responses", broken)
        job_ = work(2 * 1024 + 8)
        assert job_.bounds(1)[0] == 1028
        with pytest.raises(AttendriteError, match="got inf of unit 4 to image 1031"):
            job_.run(1)


def digest(folder: Path) -> str:
    files = sorted((folder / "shards").glob("*.npz"))
    text = b"".join(file.name.encode() + file.read_bytes() for file in files)
    return hashlib.sha256(text).hexdigest()


class TestRuns:
    @pytest.fixture(scope="class")
    @classmethod
    def truth(cls, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, bytes]:
        folder = tmp_path_factory.mktemp("truth") / "run"
        return cls.ran(folder)

    @staticmethod
    def ran(folder: Path, **options: Any) -> tuple[str, bytes]:
        job_ = work(9000, "uniform")
        found = halves(
            job_, shards.run(job_, folder, progress=False, **({"processes": 1} | options))
        )
        maps = statistics.measures(found, job_.stimuli).field
        return digest(folder), maps.tobytes()

    def test_interrupted_and_resumed(self, tmp_path: Path, truth: tuple[str, bytes]) -> None:
        folder = tmp_path / "run"
        for stop in (1, 3):
            results = shards.run(work(9000, "uniform"), folder, processes=1, progress=False)
            for _ in range(stop):
                next(results)
            results.close()  # type: ignore[attr-defined]
        assert len(list((folder / "shards").glob("*.npz"))) == 3
        assert self.ran(folder) == truth

    def test_damage_is_computed_again(self, tmp_path: Path, truth: tuple[str, bytes]) -> None:
        folder = tmp_path / "run"
        assert self.ran(folder) == truth
        file = folder / "shards" / "000004.npz"
        file.write_bytes(file.read_bytes()[:-100])
        assert self.ran(folder) == truth

    @pytest.mark.slow
    def test_any_processes(self, tmp_path: Path, truth: tuple[str, bytes]) -> None:
        assert self.ran(tmp_path / "run", processes=3) == truth

    def test_any_shares(self, tmp_path: Path, truth: tuple[str, bytes]) -> None:
        folder, job_ = tmp_path / "run", work(9000, "uniform")
        for i in (3, 1, 2):
            for _ in shards.run(job_, folder, processes=1, shard=(i, 3), progress=False):
                pass
        assert self.ran(folder) == truth

    def test_any_threads(self) -> None:
        one, two = computed(work(3000)), computed(work(3000, threads=2))
        for half, other in ((one.even, two.even), (one.odd, two.odd)):
            assert all(torch.equal(x, y) for x, y in zip(half.tensors, other.tensors, strict=True))

    @pytest.mark.parametrize(
        "other", [work(9001, "uniform"), work(9000, "binary"), work(9000, "uniform", 1),
                  work(9000, "uniform", gain=1.0)]
    )  # fmt: skip
    def test_another_run_is_refused(self, tmp_path: Path, other: FieldSums) -> None:
        shards.run(work(9000, "uniform"), tmp_path / "run", processes=1)
        with pytest.raises(AttendriteError, match="the same options again"):
            shards.run(other, tmp_path / "run", processes=1)

    def test_the_order_of_shards_decides_the_halves(self) -> None:
        job_ = work(4100)
        results = [job_.run(shard) for shard in range(4)]
        found = halves(job_, results)
        assert torch.equal(
            found.odd.products, torch.from_numpy(results[1]["products"] + results[3]["products"])
        )


class TestFiles:
    @pytest.fixture
    def images(self) -> NDArray[np.float32]:
        random = np.random.default_rng(3)
        made = random.normal(2, 3, (1500, 1, 8, 12)) * np.linspace(1, 4, 12)
        made[:, 0, 2, 3] = 7.25  # a pixel that never changes
        return made.astype(np.float32)

    def test_as_they_are(self, tmp_path: Path, images: NDArray[np.float32]) -> None:
        np.save(tmp_path / "images.npy", images)
        stimuli = ImageFile(tmp_path / "images.npy")
        found = measured(FieldSums(MODEL, stimuli))
        x = images.reshape(1500, -1).astype(np.float64)
        r = MODEL.responses(torch.from_numpy(images)).numpy().astype(np.float64)
        sd = x.std(0)
        direct = (r.T @ x / 1500 - np.outer(r.mean(0), x.mean(0))) / np.where(sd > 0, sd, np.inf)
        np.testing.assert_allclose(found.field, direct, atol=2e-5)
        assert (found.field[:, 2 * 12 + 3] == 0).all()
        assert np.isnan(found.linear).all()

    @pytest.mark.parametrize("most", [None, 700])
    def test_standardised(
        self, tmp_path: Path, images: NDArray[np.float32], most: int | None
    ) -> None:
        np.save(tmp_path / "images.npy", images)
        stimuli = ImageFile(tmp_path / "images.npy", standardise=True, most=most)
        used = images[:most].astype(np.float64)
        assert stimuli.count == len(used)
        np.testing.assert_allclose([stimuli.mean, stimuli.sd], [used.mean(), used.std()])
        some = stimuli.images(500, 100, 1).numpy()
        truth = (used[500:600] - used.mean()) / used.std()
        np.testing.assert_allclose(some, truth, rtol=1e-5, atol=1e-6)

    def test_raw_sums(self, tmp_path: Path, images: NDArray[np.float32]) -> None:
        np.save(tmp_path / "images.npy", images)
        job_ = FieldSums(MODEL, ImageFile(tmp_path / "images.npy", standardise=True))
        raw = statistics.raw(computed(job_), job_.stimuli)
        r = MODEL.responses(job_.stimuli.images(0, 1500, 1)).numpy().astype(np.float64)
        direct = r.T @ images.reshape(1500, -1)
        np.testing.assert_allclose(raw, direct, rtol=1e-6, atol=1e-6 * np.abs(direct).max())

    def test_a_changed_file_is_another_run(
        self, tmp_path: Path, images: NDArray[np.float32]
    ) -> None:
        path = tmp_path / "images.npy"
        np.save(path, images)
        before = ImageFile(path).identity()
        images[800, 0, 1, 1] += 1
        np.save(path, images)
        assert ImageFile(path).identity() != before
        np.save(path, images.reshape(1500, 1, 12, 8))
        assert ImageFile(path).identity() != ImageFile(path, most=1000).identity()

    @pytest.mark.parametrize(
        ("array", "said"),
        [
            (np.zeros((3, 8, 12), np.float32), r"have shape \[N, c, h, w\]"),
            (np.zeros((3, 1, 8, 12), np.uint8), "floating numbers, got uint8"),
            (np.zeros((0, 1, 8, 12), np.float32), "be 1 at least"),
            (np.full((3, 1, 8, 12), np.nan), "must be finite"),
            (np.ones((3, 1, 8, 12)), "must differ, to be standardised"),
            (np.array([{}]), r"be an \.npy file"),
        ],
    )
    def test_bad_files(self, tmp_path: Path, array: NDArray[Any], said: str) -> None:
        np.save(tmp_path / "images.npy", array)
        with pytest.raises(AttendriteError, match=said):
            ImageFile(tmp_path / "images.npy", standardise=True)

    def test_no_file_and_too_few(self, tmp_path: Path, images: NDArray[np.float32]) -> None:
        with pytest.raises(AttendriteError, match=r"be an \.npy file"):
            ImageFile(tmp_path / "none.npy")
        np.save(tmp_path / "images.npy", images)
        with pytest.raises(AttendriteError, match="be 1501 at least"):
            ImageFile(tmp_path / "images.npy", most=1501)


class TestV1T:
    """As the published script, in evaluation mode; tolerances as in fixtures/README.md."""

    @pytest.fixture(scope="class")
    @classmethod
    def golden(cls) -> Mapping[str, NDArray[Any]]:
        with np.load(FIXTURES / "v1t_arf" / "golden.npz") as file:
            return dict(file)

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, tmp_path_factory: pytest.TempPathFactory) -> Engine:
        out = tmp_path_factory.mktemp("v1t") / "bundle"
        return Engine(attendrite.export(FIXTURES / "v1t_arf", out), threads=1)

    @pytest.fixture(scope="class")
    @classmethod
    def noise(
        cls, golden: Mapping[str, NDArray[Any]], tmp_path_factory: pytest.TempPathFactory
    ) -> Path:
        made = torch.rand(512, 1, 36, 64, generator=torch.Generator().manual_seed(1234)).numpy()
        assert hashlib.sha256(made.tobytes()).hexdigest() == golden["noise_sha256"]
        path = tmp_path_factory.mktemp("noise") / "noise.npy"
        np.save(path, made)
        return path

    def test_parity(self, engine: Engine, noise: Path, golden: Mapping[str, NDArray[Any]]) -> None:
        settings = Settings("A", stimuli=noise, recipe="v1t")
        work_ = job(engine, settings)
        images = work_.stimuli.images(0, 512, 1)
        found = work_.responder.responses(images).numpy()
        assert np.abs(found - golden["activations"]).max() < 2e-5
        raw = receptive_fields(engine, settings).raw
        assert raw is not None
        assert np.abs(raw - golden["aRFs"]).max() < 1e-5 * np.abs(golden["aRFs"]).max()

    def test_by_noise_of_its_own(self, engine: Engine) -> None:
        found = receptive_fields(engine, Settings("A", images=100, seed=4, recipe="v1t"))
        stimuli = Noise("uniform", 4, 100, (1, 36, 64))
        x = stimuli.images(0, 100, 1)
        r = engine_responses(engine, x)
        raw = stimuli.mean + stimuli.sd * x.numpy().astype(np.float64)
        direct = np.einsum("nu,nchw->uchw", r.astype(np.float64), raw)
        assert found.raw is not None
        assert np.abs(found.raw - direct).max() < 1e-5 * np.abs(direct).max()
        assert found.meta["choices"]["mode"] == "evaluation"
        assert found.published is not None
        fits = fit_v1t(found.raw, 4)
        np.testing.assert_array_equal(found.published.fitted, fits.fitted)
        np.testing.assert_array_equal(found.arrays["popts"], fits.parameters)

    def test_what_the_recipe_rules_out(self) -> None:
        for bad in ({"behavior": (0.0, 0.0, 0.0)}, {"pupil": (0.0, 0.0)}, {"noise": "binary"}):
            options: dict[str, Any] = {"recipe": "v1t", "images": 10} | bad
            with pytest.raises(AttendriteError, match="recipe v1t"):
                Settings("A", **options)
        with pytest.raises(AttendriteError, match="unknown recipe"):
            Settings("A", 10, recipe="best")
        with pytest.raises(AttendriteError, match="images must be a number"):
            Settings("A")


def engine_responses(engine: Engine, images: torch.Tensor, **options: Any) -> NDArray[Any]:
    batch = attendrite.images.ImageBatch(images.numpy(), "A", cropped=True, **options)
    found = engine.run(batch).prediction
    assert isinstance(found, np.ndarray)
    return found


class TestConditions:
    """Behaviour and pupil are held still, by default at the mean of the training."""

    MEAN, STD = [0.5, 0.02, 3.0], [2.0, 0.1, 4.0]

    @pytest.fixture(scope="class")
    @classmethod
    def engine(cls, tmp_path_factory: pytest.TempPathFactory) -> Engine:
        folder = tmp_path_factory.mktemp("v1t")
        with np.load(FIXTURES / "v1t_tiny" / "bm2.npz") as file:
            arrays = dict(file)
        weights = {
            k[8:]: torch.from_numpy(v) for k, v in arrays.items() if k.startswith("weights.")
        }
        (folder / "run").mkdir()
        torch.save({"model": weights}, folder / "run/model_state.pt")
        (folder / "run/args.json").write_text(str(arrays["args"]))
        known = {
            "images": {"mean": 100.0, "std": 50.0},
            "behavior": {"mean": cls.MEAN, "std": cls.STD},
            "pupil_center": {"mean": [3.0, 4.0], "std": [1.0, 1.0]},
        }
        training = {"statistics": {"A": known}}
        out = attendrite.export(folder / "run", folder / "bundle", training=training)
        return Engine(out, threads=1)

    def without_statistics(self, engine: Engine) -> Engine:
        manifest = replace(engine.manifest, training={})
        return Engine(Bundle(manifest, engine.bundle.weights), threads=1)

    def test_the_mean_of_the_training(self, engine: Engine) -> None:
        responder = job(engine, Settings("A", images=10)).responder
        assert isinstance(responder, EngineResponder)
        assert responder.behavior == pytest.approx([0.25, 0.2, 0.75])
        assert responder.pupil == (0.0, 0.0)
        assert responder.shift
        images = Noise("uniform", 0, 10, responder.shape).images(0, 10, 1)
        direct = engine_responses(
            engine, images, behavior=np.tile([0.25, 0.2, 0.75], (10, 1)), pupil=np.zeros((10, 2))
        )
        np.testing.assert_allclose(responder.responses(images), direct, atol=1e-6)

    def test_v1t_is_zeros_without_a_shift(self, engine: Engine) -> None:
        responder = job(engine, Settings("A", images=10, recipe="v1t")).responder
        assert isinstance(responder, EngineResponder)
        assert responder.behavior == (0.0, 0.0, 0.0)
        assert not responder.shift
        images = Noise("uniform", 0, 10, responder.shape).images(0, 10, 1)
        zeros = {"behavior": np.zeros((10, 3)), "pupil": np.zeros((10, 2)), "shift": False}
        direct = engine_responses(engine, images, **zeros)
        np.testing.assert_allclose(responder.responses(images), direct, atol=1e-6)
        shifted = engine_responses(engine, images, **(zeros | {"shift": True}))
        assert np.abs(direct - shifted).max() > 1e-3

    def test_given(self, engine: Engine) -> None:
        given = Settings("A", images=10, behavior=(1.0, 2.0, 3.0), pupil=(0.5, -0.5))
        responder = job(self.without_statistics(engine), given).responder
        assert isinstance(responder, EngineResponder)
        assert (responder.behavior, responder.pupil) == ((1.0, 2.0, 3.0), (0.5, -0.5))

    def test_copies_of_a_worker_run_alike(self, engine: Engine) -> None:
        work_ = job(engine, Settings("A", images=12, batch_size=5))
        copied = copy.deepcopy(work_)
        assert copied.responder._engine is None  # type: ignore[attr-defined]
        for name, array in copied.run(1).items():
            assert array.tobytes() == work_.run(1)[name].tobytes()
        assert copied.identity() == work_.identity()

    def test_what_is_refused(self, engine: Engine) -> None:
        for settings, said in (
            (Settings("C", 10), "unknown mouse 'C'"),
            (Settings("A", 1), "two at least"),
            (Settings("A", 10, behavior=(1.0,)), r"behavior must have shape \[3\]"),
            (Settings("A", 10, pupil=(1.0, np.nan)), "pupil must be finite"),
            (Settings("A", 10, batch_size=0), "batch_size must be at least 1"),
            (Settings("A", 10, noise="pink"), "unknown noise 'pink'"),
            (Settings("A", 10, seed=-1), "seed must lie in"),
        ):
            with pytest.raises(AttendriteError, match=said):
                job(engine, settings)
        with pytest.raises(AttendriteError, match="mean behaviour must be known"):
            job(self.without_statistics(engine), Settings("A", 10))
        with pytest.raises(AttendriteError, match="have a folder"):
            receptive_fields(engine, Settings("A", 10), processes=2)

    def test_models_of_spikes_are_refused(self, tmp_path: Path) -> None:
        source = FIXTURES / "poyo_tiny/poyo_tiny_lightning.ckpt"
        engine = Engine(attendrite.export(source, tmp_path / "poyo"))
        with pytest.raises(AttendriteError, match="respond to images, got a poyo model"):
            job(engine, Settings("sess_a", 10))


class TestSensorium:
    @pytest.fixture(scope="class")
    @classmethod
    def found(cls, tmp_path_factory: pytest.TempPathFactory) -> Fields:
        source = FIXTURES / "sensorium_reduced" / "sensorium_sota_model.pth"
        out = attendrite.export(source, tmp_path_factory.mktemp("sensorium") / "bundle")
        settings, screen = Settings(SENSORIUM, images=600), Screen(56.5 / 64)
        return receptive_fields(Engine(out, threads=1), settings, screen=screen)

    def test_arrays(self, found: Fields) -> None:
        units = found.meta["units"]
        assert found.field.shape == (units, 1, 36, 64)
        assert found.z.shape == found.field.shape
        assert {x.dtype for x in (found.field, found.even, found.odd)} == {np.dtype(np.float32)}
        np.testing.assert_allclose(found.z[3], found.field[3] / found.standard_error[3], rtol=1e-5)
        np.testing.assert_allclose(found.field, (found.even + found.odd) / 2, atol=0.02)

    def test_units(self, found: Fields) -> None:
        table = found.units
        assert set(map(len, table.values())) == {found.meta["units"]}
        u = int(np.argmax(np.abs(table["peak_z"])))
        where = u, table["peak_channel"][u], table["peak_row"][u], table["peak_column"][u]
        assert np.abs(found.field[u]).max() == abs(found.field[where]) == abs(table["peak"][u])
        np.testing.assert_allclose(table["linear"] + table["nonlinear"], 1)
        z = np.abs(found.z.reshape(len(found.z), -1)).max(1)
        np.testing.assert_allclose(np.abs(table["peak_z"]), z, rtol=1e-6)
        assert (table["significant"] == (table["p_value"] <= 0.05)).all()
        assert table["significant"].any()
        azimuth = np.degrees(np.arctan((table["x0"] - 31.5) * 56.5 / 64 / 15))
        np.testing.assert_allclose(table["azimuth_deg"], azimuth, atol=1e-9)
        assert found.meta["choices"]["screen"] == {"cm_per_px": 56.5 / 64, "distance_cm": 15.0}
        pytest.importorskip("pandas")
        assert list(found.frame().columns) == list(table)
