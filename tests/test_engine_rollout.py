"""The rollout of a run: against full matrices, for every executor and family."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, CalciumBatch, Capture, Engine, SpikeBatch, executors
from attendrite.__main__ import main
from attendrite.capture import Site
from attendrite.executors import _rollout
from attendrite.models._site import Inputs, Keys, Queries
from numpy.typing import NDArray

FIXTURES = Path(__file__).parent / "fixtures"
# Those that can be held to float64; the others have tests of their own.
EXECUTORS = [
    name
    for name, reason in executors.refusals(family="poyo", device="cpu", dtype="float64").items()
    if reason is None
]
SINGLE = [*EXECUTORS, "native"]  # those of float32
FUSE = ("mean", "max")
TASKS = ("cursor_velocity_2d", "cursor_position_2d", "arm_velocity_2d")
SOURCES = {
    "poyo": "poyo_tiny/poyo_tiny_lightning.ckpt",
    "poyo_plus": "poyo_plus_tiny/plus_tiny_lightning.ckpt",
    "calcium_poyo_plus": "poyo_plus_tiny/calcium_tiny_lightning.ckpt",
}


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: attendrite.export(FIXTURES / s, folder / n) for n, s in SOURCES.items()}


def batch(family: str) -> Any:
    """Three windows; one without spikes, one without some of the units; some queries missing."""
    rng = np.random.default_rng(0)
    n_units = 24 if family == "poyo" else 10
    present = np.ones((3, n_units), np.bool_)
    present[2, 4:] = False
    common: dict[str, Any] = {
        "unit_ids": [
            f"sess_a/unit_{i:04d}" if family == "poyo" else f"u{i}" for i in range(n_units)
        ],
        "session": ["sess_a"] * 3 if family == "poyo" else ["s0", "s1", "s0"],
        "query_times": rng.random((3, 5)),
        "window_units": present,
    }
    if family != "poyo":
        common["query_task"] = rng.choice(["", *TASKS], (3, 5))
        common["query_task"][0, 0] = ""
    if family == "calcium_poyo_plus":
        times = np.sort(rng.random((3, 6)), axis=1)
        return CalciumBatch(values=rng.normal(size=(3, 6, n_units)), times=times, **common)
    times = np.concatenate([np.sort(rng.random(n)) for n in (40, 25)])
    return SpikeBatch(times=times, units=rng.integers(0, n_units, 65),
                      window=np.repeat([0, 2], [40, 25]), **common)  # fmt: skip


def by_hand(weights: dict[str, NDArray[Any]], units: NDArray[Any], n: int, fuse: str) -> Any:
    """Rollout from the weights of all heads, ``[B, H, Q, K]`` by site; ``units`` -1 on padding."""
    total: NDArray[np.float64] | None = None
    for site, heads in reversed(weights.items()):
        fused = heads.astype(np.float64).mean(1) if fuse == "mean" else heads.max(1).astype(float)
        if site.startswith("processor"):
            fused = fused + np.eye(fused.shape[1])
        sums = fused.sum(-1, keepdims=True)
        step = fused / np.where(sums == 0, 1, sums)  # no query, no weights
        total = step if total is None else total @ step
    member = (units[..., None] == np.arange(n)).astype(float)  # [B, K, U]
    return np.einsum("bqk,bku->bqu", total, member)


@pytest.mark.parametrize("fuse", FUSE)
@pytest.mark.parametrize("executor", EXECUTORS)
@pytest.mark.parametrize("family", SOURCES)
def test_full_matrices(bundles: dict[str, Path], family: str, executor: str, fuse: str) -> None:
    given = batch(family)
    plain = Engine(bundles[family], executor="reference", dtype="float64")
    record = plain.run(given, Capture({"*": "weights"})).attention
    assert record is not None
    tokens = record.tokens["encoder"]
    there = np.arange(tokens.unit.shape[1]) < tokens.lengths[:, None]
    weights = {site.name: record[site.name, "weights"] for site in plain.sites}
    exact = by_hand(weights, np.where(there, tokens.unit, -1), len(given.unit_ids), fuse)
    if given.query_task is not None:
        exact[given.query_task == ""] = 0
    for dtype, tolerance in (("float64", 1e-10), ("float32", 5e-6)):
        engine = Engine(bundles[family], executor=executor, dtype=dtype)
        result = engine.run(given, rollout=fuse)
        found = result.rollout
        assert found is not None
        assert found.dtype == dtype
        np.testing.assert_allclose(found, exact, rtol=0, atol=tolerance)
        one = 1.0 if given.query_task is None else (given.query_task != "").astype(float)
        np.testing.assert_allclose(found.sum(-1) * np.ones((3, 5)), one * np.ones((3, 5)),
                                   atol=1e-6)  # fmt: skip
        assert (found[2][:, 4:] == 0).all()  # units that do not exist in that window
        assert result.attention is None
        assert result.meta["choices"]["rollout"].startswith(f"{fuse} over heads")


@pytest.mark.parametrize("fuse", FUSE)
@pytest.mark.parametrize("executor", SINGLE)
def test_golden_weights(bundles: dict[str, Path], executor: str, fuse: str) -> None:
    """Against the attention that torch_brain's own model has."""
    golden = np.load(FIXTURES / "poyo_tiny/poyo_tiny_golden.npz")
    kind, real = golden["in.input_token_type"], golden["in.input_mask"]
    unit = golden["in.input_unit_index"] - 1
    present = np.zeros((3, 24), np.bool_)
    for b in range(3):
        present[b, unit[b, real[b] & (kind[b] == 1)]] = True
    window, token = np.nonzero(real & (kind == 0))
    given = SpikeBatch(
        times=golden["in.input_timestamps"][window, token],
        units=unit[window, token],
        window=window,
        unit_ids=[f"sess_a/unit_{i:04d}" for i in range(24)],
        session=["sess_a"] * 3,
        query_times=golden["in.output_timestamps"],
        window_units=present,
    )
    names = ["enc_atn", *(f"proc_layers.{i}.0" for i in range(3)), "dec_atn"]
    sites = ["encoder", *(f"processor.{i}" for i in range(3)), "decoder"]
    weights = {s: golden[f"attn.{n}"] for s, n in zip(sites, names, strict=True)}
    exact = by_hand(weights, np.where(real, unit, -1), 24, fuse)
    found = Engine(bundles["poyo"], executor=executor).run(given, rollout=fuse).rollout
    # a unit adds up to 20 weights that are good to 2e-6 each; rows mix, they do not add
    np.testing.assert_allclose(found, exact, rtol=0, atol=2e-5)


@pytest.mark.parametrize("executor", EXECUTORS)
def test_beside_captures_and_batches(bundles: dict[str, Path], executor: str) -> None:
    """Asking for it changes nothing else, and does not depend on how windows are batched."""
    engine = Engine(bundles["poyo"], executor=executor, dtype="float64")
    capture = Capture({"*": ["per_key", "lag"], "encoder": "per_unit:spikes"})
    plain = engine.run(batch("poyo"), capture)
    both = engine.run(batch("poyo"), capture, rollout="mean")
    parts = engine.run(batch("poyo"), capture, rollout="mean", batch_size=2)
    assert plain.rollout is None
    assert plain.attention is not None
    assert both.attention is not None
    np.testing.assert_array_equal(plain.prediction, both.prediction)
    assert list(plain.attention) == list(both.attention)
    for key in plain.attention:
        np.testing.assert_allclose(plain.attention[key], both.attention[key], atol=1e-12)
    assert both.rollout is not None
    np.testing.assert_allclose(both.rollout, parts.rollout, atol=1e-12)


@pytest.mark.parametrize("fuse", FUSE)
def test_what_attention_gives_along(monkeypatch: pytest.MonkeyPatch, fuse: str) -> None:
    """Weights over heads of all blocks but the last, of images alone and while memory allows."""
    sites = tuple(Site(f"block.{i}", 3, 8, "patches", residual=True) for i in range(4))
    times, q = torch.zeros(2, 11, dtype=torch.float64), torch.zeros(2, 3, 11, 8)
    image = Inputs(Keys(times), Queries(times), grid=(2, 5))
    bytes_ = 3 * 2 * 11 * 11 * 4  # layers, images, queries, keys, float32

    def along(site: Site, inputs: Inputs = image, q: torch.Tensor = q) -> frozenset[str]:
        return _rollout.along(fuse, site, sites, inputs, q)

    monkeypatch.setattr(_rollout, "KEPT", bytes_)
    assert [along(site) for site in sites] == [{f"weights_{fuse}"}] * 3 + [set()]
    assert not along(sites[0], replace(image, grid=None))
    assert not along(sites[0], q=q.double())
    assert not _rollout.along(None, sites[0], sites, image, q)
    monkeypatch.setattr(_rollout, "KEPT", bytes_ - 1)
    assert not any(along(site) for site in sites)


def test_an_unknown_way_to_fuse(bundles: dict[str, Path]) -> None:
    with pytest.raises(AttendriteError, match="unknown rollout 'min'; known: mean, max"):
        Engine(bundles["poyo"]).run(batch("poyo"), rollout="min")


@pytest.mark.parametrize("fuse", FUSE)
def test_the_command_writes_it(bundles: dict[str, Path], tmp_path: Path, fuse: str) -> None:
    given = batch("poyo")
    np.savez(tmp_path / "in.npz", **{k: v for k, v in vars(given).items() if v is not None})
    out = tmp_path / "out.npz"
    assert main(["run", str(bundles["poyo"]), str(tmp_path / "in.npz"), "-o", str(out),
                 "--rollout", fuse]) == 0  # fmt: skip
    found = np.load(out)
    expected = Engine(bundles["poyo"]).run(given, rollout=fuse).rollout
    assert expected is not None
    np.testing.assert_allclose(found["rollout"], expected, atol=1e-6)
    assert json.loads(str(found["meta"]))["choices"]["rollout"].startswith(fuse)
    assert main(["run", str(bundles["poyo"]), str(tmp_path / "in.npz"), "-o", str(out)]) == 0
    assert "rollout" not in np.load(out).files


@pytest.mark.gpu
@pytest.mark.parametrize("fuse", FUSE)
@pytest.mark.parametrize("family", SOURCES)
def test_cuda(bundles: dict[str, Path], family: str, fuse: str) -> None:
    exact = Engine(bundles[family], dtype="float64").run(batch(family), rollout=fuse).rollout
    found = Engine(bundles[family], device="cuda").run(batch(family), rollout=fuse).rollout
    assert exact is not None
    assert found is not None
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-5)
