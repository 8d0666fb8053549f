"""Rollout: every backend against full matrices written out in numpy, and what must hold."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from attendrite.kernels import rollout as room
from attendrite.kernels.rollout import FUSE, OPERATION, Layer, blocks, rollout
from numpy.typing import NDArray
from torch import Tensor

BACKENDS = OPERATION.backends


@pytest.fixture(params=[1 << 22, 40], ids=["one block", "many blocks"])
def backend_blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", request.param)


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(shape, generator=generator, dtype=dtype)


def self_layer(n: int, heads: int = 3, batch: int = 2, seed: int = 0, **arguments: Any) -> Layer:
    q, k = (normal(batch, heads, n, 5, seed=seed + i) for i in range(2))
    return Layer(q, k, True, arguments)


def image_model(depth: int = 3, n: int = 17) -> list[Layer]:
    return [self_layer(n, seed=2 * i) for i in range(depth)]


def spike_model(lengths: tuple[int, ...] = (23, 11), queries: int = 4) -> list[Layer]:
    """Tokens to latents, latents twice, queries to latents; other numbers of heads each."""
    batch, latents = len(lengths), 9
    keys = normal(batch, 2, max(lengths), 5, seed=10)
    for b, n in enumerate(lengths):
        keys[b, :, n:] = float("nan")
    encoder = Layer(
        normal(batch, 2, latents, 5, seed=11), keys, False, {"lengths": torch.tensor(lengths)}
    )
    middle = [self_layer(latents, heads=4, batch=batch, seed=20 + 2 * i) for i in range(2)]
    decoder = Layer(
        normal(batch, 2, queries, 5, seed=30), normal(batch, 2, latents, 5, seed=31), False
    )
    return [encoder, *middle, decoder]


UNITS = torch.from_numpy(np.random.default_rng(0).integers(-1, 6, (2, 23)))


def by_hand(layers: list[Layer], fuse: str, rows: Tensor | None = None) -> NDArray[np.float64]:
    """Rollout from full matrices in numpy, for batch element after batch element."""
    out = []
    for b in range(layers[0].q.shape[0]):
        total = None if rows is None else rows[b].double().numpy()
        for layer in reversed(layers):
            q, k = layer.q[b].double().numpy(), layer.k[b].double().numpy()  # [H, N, D]
            lengths = layer.arguments.get("lengths")
            n = k.shape[1] if lengths is None else int(lengths[b])
            scores = np.einsum("hqd,hkd->hqk", q, k[:, :n]) / np.sqrt(q.shape[2])
            weights = np.exp(scores)
            weights /= weights.sum(2, keepdims=True)
            fused = weights.mean(0) if fuse == "mean" else weights.max(0)
            fused = np.pad(fused, ((0, 0), (0, k.shape[1] - n)))
            if layer.residual:
                fused = fused + np.eye(len(fused))
            step = fused / fused.sum(1, keepdims=True)
            total = step if total is None else total @ step
        out.append(total)
    return np.stack(out)


def per_unit(values: NDArray[np.float64], units: Tensor, n_units: int) -> NDArray[np.float64]:
    out = np.zeros((*values.shape[:2], n_units))
    for b, unit in enumerate(units.tolist()):
        for k, u in enumerate(unit):
            if u >= 0:
                out[b, :, u] += values[b, :, k]
    return out


@pytest.mark.usefixtures("backend_blocks")
@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fuse", FUSE)
@pytest.mark.parametrize("model", [image_model, spike_model])
class TestAgainstFullMatrices:
    def test_all_rows(self, backend: str, fuse: str, model: Callable[[], list[Layer]]) -> None:
        layers = model()
        found = rollout(layers, fuse=fuse, backend=backend)
        np.testing.assert_allclose(found, by_hand(layers, fuse), rtol=0, atol=1e-12)
        np.testing.assert_allclose(found.sum(-1), 1, atol=1e-12)

    @pytest.mark.parametrize("count", [1, 3])
    def test_read_out_rows(
        self, backend: str, fuse: str, model: Callable[[], list[Layer]], count: int
    ) -> None:
        layers = model()
        rows = normal(2, count, layers[-1].q.shape[2], seed=5).abs()
        found = rollout(layers, fuse=fuse, rows=rows, backend=backend)
        np.testing.assert_allclose(found, by_hand(layers, fuse, rows), rtol=0, atol=1e-10)
        np.testing.assert_allclose(found.sum(-1), rows.sum(-1), rtol=1e-12)

    @pytest.mark.parametrize("count", [None, 1, 3])
    def test_units(
        self, backend: str, fuse: str, model: Callable[[], list[Layer]], count: int | None
    ) -> None:
        layers = model()
        units = UNITS[:, : layers[0].n_keys]
        rows = None if count is None else normal(2, count, layers[-1].q.shape[2], seed=6).abs()
        found = rollout(layers, fuse=fuse, rows=rows, units=units, n_units=7, backend=backend)
        expected = per_unit(by_hand(layers, fuse, rows), units, 7)
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10)
        assert (found[..., 6] == 0).all()  # a unit without keys

    def test_float32(self, backend: str, fuse: str, model: Callable[[], list[Layer]]) -> None:
        layers = [layer.to(torch.float32) for layer in model()]
        found = rollout(layers, fuse=fuse, backend=backend)
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, by_hand(layers, fuse), rtol=0, atol=2e-6)


@pytest.mark.usefixtures("backend_blocks")
@pytest.mark.parametrize("fuse", FUSE)
@pytest.mark.parametrize("count", [None, 1, 3])
@pytest.mark.parametrize("model", [image_model, spike_model])
class TestWeightsOverHeadsThatAttentionGave:
    def test_are_taken_as_they_are(
        self, model: Callable[[], list[Layer]], count: int | None, fuse: str
    ) -> None:
        layers = model()
        rows = None if count is None else normal(2, count, layers[-1].q.shape[2], seed=5).abs()
        given = [replace(x, fused=x.statistic(f"weights_{fuse}")) for x in layers]
        found = rollout(given, fuse=fuse, rows=rows, backend="blocks")
        np.testing.assert_allclose(found, by_hand(layers, fuse, rows), rtol=0, atol=1e-10)
        without = [replace(x, q=x.q * float("nan")) for x in given]  # nothing is computed again
        again = rollout(without, fuse=fuse, rows=rows, backend="blocks")
        np.testing.assert_array_equal(again, found)

    def test_go_with_the_layer_to_another_dtype(
        self, model: Callable[[], list[Layer]], count: int | None, fuse: str
    ) -> None:
        layers = model()
        rows = None if count is None else normal(2, count, layers[-1].q.shape[2], seed=5).abs()
        given = [replace(x, fused=x.statistic(f"weights_{fuse}")) for x in layers]
        single = [x.to(torch.float32) for x in given]
        found = rollout(single, fuse=fuse, rows=rows, backend="blocks")
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found, by_hand(layers, fuse, rows), rtol=0, atol=2e-5)

    def test_are_not_modified(
        self, model: Callable[[], list[Layer]], count: int | None, fuse: str
    ) -> None:
        layers = model()
        rows = None if count is None else normal(2, count, layers[-1].q.shape[2], seed=5).abs()
        given = [replace(x, fused=x.statistic(f"weights_{fuse}")) for x in layers]
        rollout(given, fuse=fuse, rows=rows, backend="blocks")
        for layer, before in zip(given, layers, strict=True):
            np.testing.assert_array_equal(layer.fused, before.statistic(f"weights_{fuse}"))


def test_weights_over_heads_of_another_shape() -> None:
    layers = image_model()
    layers[1] = replace(layers[1], fused=torch.ones(2, 17, 16, dtype=torch.float64))
    with pytest.raises(ValueError, match=re.escape("fused of layer 1 must have shape [2, 17, 17]")):
        rollout(layers, fuse="max")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fuse", FUSE)
class TestInvariants:
    def test_the_order_of_keys_does_not_matter(self, backend: str, fuse: str) -> None:
        layers, order = spike_model((23, 23)), torch.randperm(23)
        moved = [Layer(layers[0].q, layers[0].k[:, :, order], False), *layers[1:]]
        a = rollout(layers, fuse=fuse, units=UNITS, n_units=6, backend=backend)
        b = rollout(moved, fuse=fuse, units=UNITS[:, order], n_units=6, backend=backend)
        np.testing.assert_allclose(a, b, atol=1e-12)

    def test_heads_that_agree_are_one_head(self, backend: str, fuse: str) -> None:
        layers = image_model()
        same = [Layer(x.q[:, :1].repeat(1, 3, 1, 1), x.k[:, :1].repeat(1, 3, 1, 1), True)
                for x in layers]  # fmt: skip
        one = [Layer(x.q[:, :1], x.k[:, :1], True) for x in layers]
        a, b = (rollout(x, fuse=fuse, backend=backend) for x in (same, one))
        np.testing.assert_allclose(a, b, atol=1e-12)

    def test_attention_to_oneself_alone_changes_nothing(self, backend: str, fuse: str) -> None:
        eye = 1e3 * torch.eye(6, dtype=torch.float64)[None, None]
        layers = [Layer(eye, eye, True)] * 2
        found = rollout(layers, fuse=fuse, backend=backend)
        np.testing.assert_allclose(found[0], np.eye(6), atol=1e-12)

    def test_a_row_of_a_batch_is_the_row_alone(self, backend: str, fuse: str) -> None:
        layers = spike_model((23, 11))
        alone = [
            Layer(x.q[1:], x.k[1:], x.residual, {n: v[1:] for n, v in x.arguments.items()})
            for x in layers
        ]
        a, b = (rollout(x, fuse=fuse, backend=backend) for x in (layers, alone))
        np.testing.assert_allclose(a[1:], b, atol=1e-12)

    def test_an_element_without_keys_gives_nothing(self, backend: str, fuse: str) -> None:
        layers = spike_model((23, 0))
        found = rollout(layers, fuse=fuse, backend=backend)
        assert (found[1] == 0).all()
        np.testing.assert_allclose(found[0].sum(-1), 1, atol=1e-12)

    def test_a_residual_layer_without_keys_hands_rows_on(self, backend: str, fuse: str) -> None:
        layer = self_layer(5, lengths=torch.tensor([0, 5]))
        for rows in (None, normal(2, 1, 5).abs()):
            found = rollout([layer], fuse=fuse, rows=rows, backend=backend)
            expected = torch.eye(5, dtype=torch.float64) if rows is None else rows[0]
            np.testing.assert_allclose(found[0], expected, atol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("fuse", FUSE)
@pytest.mark.parametrize("count", [None, 1])
def test_tables_packed_keys_and_phases(backend: str, fuse: str, count: int | None) -> None:
    """The forms of keys that the attention takes give what written-out keys give."""
    padded = spike_model((23, 11))
    encoder, rest = padded[0], padded[1:]
    table, rows = normal(1, 2, 4, 5, seed=40), torch.from_numpy(np.arange(34) * 7 % 4)[None]
    angles = normal(1, 34, 2, seed=41)
    turn = torch.stack((angles.cos(), angles.sin()), 2)  # [1, N, 2, F]
    own = torch.stack((angles[:, :9].sin(), angles[:, :9].cos()), 2)
    cuts = torch.tensor([0, 23, 34])
    packed = {"cu_seqlens": cuts, "rows": rows, "key_phase": turn, "query_phase": own}
    k, phase = torch.zeros(2, 2, 23, 5, dtype=torch.float64), torch.zeros(2, 23, 2, 2).double()
    units = torch.zeros(2, 23, dtype=torch.int64)
    flat = UNITS.flatten()[None, :34]
    for b, (start, stop) in enumerate([(0, 23), (23, 34)]):
        k[b, :, : stop - start] = table[0][:, rows[0, start:stop]]
        phase[b, : stop - start], units[b, : stop - start] = (
            turn[0, start:stop],
            flat[0, start:stop],
        )
    plain = {"lengths": torch.tensor([23, 11]), "key_phase": phase, "query_phase": own}
    weights = None if count is None else normal(2, count, 4).abs()
    options: dict[str, Any] = {"fuse": fuse, "rows": weights, "n_units": 6, "backend": backend}
    a = rollout([Layer(encoder.q, k, False, plain), *rest], units=units, **options)
    b = rollout([Layer(encoder.q, table, False, packed), *rest], units=flat, **options)
    np.testing.assert_allclose(a, b, atol=1e-12)


@pytest.mark.parametrize("fuse", FUSE)
@pytest.mark.parametrize("units", [False, True])
@pytest.mark.parametrize("count", [None, 1, 2])
def test_no_array_of_all_heads(
    monkeypatch: pytest.MonkeyPatch, fuse: str, units: bool, count: int | None
) -> None:
    """Nothing that the fast backend asks of the attention has a row per query of every head."""
    heads, n, sizes = 4, 300, []
    original = room.attention

    def watched(*arguments: Any, **options: Any) -> Any:
        found = original(*arguments, **options)
        sizes.extend(x.numel() for x in found.statistics.values())
        return found

    monkeypatch.setattr(room, "attention", watched)
    monkeypatch.setattr(blocks, "BLOCK", 40_000)
    layers = [self_layer(n, heads=heads, batch=1, seed=i) for i in range(2)]
    of = torch.arange(n)[None] % 50
    rows = None if count is None else normal(1, count, n).abs()
    chosen: dict[str, Any] = {"units": of, "n_units": 50} if units else {}
    rollout(layers, fuse=fuse, rows=rows, backend="blocks", **chosen)
    assert sizes
    assert max(sizes) <= 40_000 < heads * n * n


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"fuse": "min"}, "fuse must be one of mean, max, got 'min'"),
        ({"layers": []}, "layers must hold at least one, got none"),
        ({"layers": [self_layer(5), self_layer(6)]}, "keys of layer 1 must be layer 0's 5 queries"),
        ({"layers": [Layer(normal(1, 1, 3, 4), normal(1, 1, 5, 4), True)]},
         "residual layer 0 must have as many queries as keys, got 3 queries and 5 keys"),
        ({"layers": [self_layer(5, mask=None)]}, "unknown argument 'mask'; known: cu_seqlens"),
        ({"rows": normal(2, 4)}, r"rows must have shape \[2, C, 5\], got \[2, 4\]"),
        ({"rows": normal(2, 1, 4)}, r"rows must have shape \[2, C, 5\], got \[2, 1, 4\]"),
        ({"units": torch.zeros(2, 5).long()}, "n_units must be >= 1 with units, got 0"),
        ({"backend": "fast"}, r"unknown backend rollout\[fast\]"),
    ],
)  # fmt: skip
def test_bad_input(change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"layers": [self_layer(5)], "fuse": "mean"} | change
    with pytest.raises(ValueError, match=message):
        rollout(options.pop("layers"), **options)


@pytest.mark.parametrize("fuse", ["mean", "max"])
def test_rows_that_read_few_queries(fuse: str) -> None:
    """A class token reads one query; whatever is read, the others are not looked at."""
    chance = torch.Generator().manual_seed(5)
    q, k = (torch.randn(2, 3, 40, 8, generator=chance, dtype=torch.float64) for _ in "qk")
    layers = [Layer(q, k, True), Layer(k, q, True)]
    whole = rollout(layers, fuse=fuse, backend="reference")
    for queries in ([0], [39], [7, 8, 21], []):
        rows = torch.zeros(2, 1, 40, dtype=torch.float64)
        rows[1, 0, queries] = torch.arange(1.0, 1 + len(queries), dtype=torch.float64)
        found = rollout(layers, fuse=fuse, rows=rows)
        torch.testing.assert_close(found, rows @ whole)
