"""The native executor in bfloat16: errors by a rule, what it leaves in float32, what it refuses.

``err <= 2 err(executor reference inside RoundedLayers) + 1e-6 max(1, max|ref|)``, both against
executor reference in float64, with the largest error of its grids. In test_verify.py statistics of
every site are held to it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import attendrite
import numpy as np
import pytest
import torch
from attendrite import AttendriteError, Bundle, Capture, Engine, _core, executors
from attendrite.executors import native
from attendrite.verification import FACTOR, FLOOR, GRIDS, RoundedLayers
from torch.nn import functional as F

from .test_native import (
    BY_UNIT,
    EVERYTHING,
    FIXTURES,
    SOURCES,
    arrays,
    batch,
    encoder_output,
    tails,
)

pytestmark = pytest.mark.usefixtures("one_thread")
needs_it = pytest.mark.skipif(
    _core.cpu_level() != "v4_bf16", reason=f"needs AVX512_BF16, this is {_core.cpu_level()}"
)


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {n: attendrite.export(FIXTURES / s, folder / n) for n, s in SOURCES.items()}


def engine(source: Any, **options: Any) -> Engine:
    return Engine(source, executor="native", dtype="bfloat16", **options)


def assert_accurate(source: Any, given: Any) -> None:
    exact = arrays(Engine(source, executor="reference", dtype="float64").run(given, BY_UNIT))
    reference = Engine(source, executor="reference")
    near = []
    for grid in GRIDS:
        with RoundedLayers(grid):
            near.append(arrays(reference.run(given, BY_UNIT)))
    found = arrays(engine(source).run(given, BY_UNIT))
    assert found.keys() == exact.keys()
    for name, x in exact.items():
        allowed = FACTOR * max(np.abs(one[name] - x).max(initial=0) for one in near)
        allowed += FLOOR * max(1.0, np.abs(x).max(initial=0))
        assert np.abs(found[name] - x).max(initial=0) <= allowed, name


@needs_it
@pytest.mark.parametrize("family", SOURCES)
class TestWhereTheCpuHasIt:
    def test_accuracy(self, bundles: dict[str, Path], family: str) -> None:
        for counts, queries in (((40, 0, 300), 5), ((70,), 1), ((3, 900), 130)):
            assert_accurate(bundles[family], batch(family, counts, queries))

    def test_other_weights(self, bundles: dict[str, Path], family: str) -> None:
        """Ten times as large: more depends on how they are rounded."""
        bundle = Bundle.load(bundles[family])
        weights = {
            name: t * 10 if ".to_out.weight" in name or ".net." in name else t
            for name, t in bundle.weights.items()
        }
        assert_accurate(replace(bundle, weights=weights), batch(family))

    def test_numbers_are_rounded_and_results_are_not(
        self, bundles: dict[str, Path], family: str
    ) -> None:
        result = engine(bundles[family]).run(batch(family))
        wide = arrays(Engine(bundles[family], executor="native").run(batch(family)))
        exact = arrays(Engine(bundles[family], "reference", dtype="float64").run(batch(family)))
        assert result.meta["dtype"] == "bfloat16"
        for name, x in arrays(result).items():
            assert x.dtype == np.float32
            assert (x.view(np.uint32) & 0xFFFF).any()
            error, small = np.abs(x - exact[name]).max(), np.abs(wide[name] - exact[name]).max()
            assert error > 30 * small

    def test_attention_of_the_encoder_is_that_of_float32(
        self, bundles: dict[str, Path], family: str
    ) -> None:
        """Its keys and queries are made once, and no layer comes before it."""
        at_encoder = Capture({"encoder": ["per_unit", "entropy", "lse"]})
        plain = Engine(bundles[family], executor="native").run(batch(family), at_encoder)
        found = engine(bundles[family]).run(batch(family), at_encoder)
        assert plain.attention is not None
        assert found.attention is not None
        for name, x in plain.attention.values.items():
            np.testing.assert_array_equal(found.attention.values[name], x)

    def test_bits_of_threads(self, bundles: dict[str, Path], family: str) -> None:
        one, *others = (
            arrays(engine(bundles[family], threads=n).run(batch(family), EVERYTHING))
            for n in (1, 2, 5)
        )
        for other in others:
            for name, x in one.items():
                np.testing.assert_array_equal(other[name], x, name)

    def test_tails(self, bundles: dict[str, Path], family: str) -> None:
        """From the encoder's output on: to the bit what the run gives."""
        ours, given = engine(bundles[family]), batch(family)
        plain, encoded = arrays(ours.run(given)), encoder_output(ours, given)
        assert ours.array_dtype == "float32"
        for name, x in tails(ours, given, encoded[None]).items():
            np.testing.assert_array_equal(x[0], plain[name])
        with pytest.raises(AttendriteError, match="encoded must be an array of float32, got float"):
            ours.tails(given, encoded[None].double().numpy())

    def test_partials(self, bundles: dict[str, Path], family: str) -> None:
        ours, plain = engine(bundles[family]), Engine(bundles[family], executor="native")
        n_keys = ours.model.inputs(batch(family)).keys.times.shape[1]
        segments = np.zeros((3, n_keys), np.int64)
        for found, x in zip(
            ours.partials(batch(family), segments, 1),
            plain.partials(batch(family), segments, 1),
            strict=True,
        ):
            np.testing.assert_array_equal(found, x)

    def test_masks_are_refused(self, bundles: dict[str, Path], family: str) -> None:
        with pytest.raises(AttendriteError, match="masks must be run in float32 or float64, got"):
            engine(bundles[family]).masked(batch(family), [{}])

    def test_auto_takes_it(self, bundles: dict[str, Path], family: str) -> None:
        assert Engine(bundles[family], dtype="bfloat16").executor == "native"


class TestRefusals:
    KIND = {"family": "poyo", "device": "cpu", "dtype": "bfloat16"}  # noqa: RUF012

    def test_of_a_cpu_without_it(
        self, bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(_core, "cpu_level", lambda: "v3")
        reason = "computes in bfloat16 where the CPU has AVX512_BF16, got level v3; use float32"
        assert native.refuses(**self.KIND) == reason
        with pytest.raises(AttendriteError, match=f"executor 'native' {reason}"):
            engine(bundles["poyo"])
        with pytest.raises(AttendriteError, match="an executor of bfloat16 on cpu must be there"):
            Engine(bundles["poyo"], dtype="bfloat16")

    def test_of_a_cpu_with_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(_core, "cpu_level", lambda: "v4_bf16")
        assert native.refuses(**self.KIND) is None
        for other, reason in (
            ({"family": "v1t"}, "computes v1t in float32, got bfloat16; use float32"),
            ({"device": "cuda"}, "runs on the CPU, got cuda; use executor torch"),
        ):
            assert native.refuses(**(self.KIND | other)) == reason

    def test_of_the_other_executors(self) -> None:
        reasons = executors.refusals(**self.KIND)
        for name in ("reference", "torch"):
            why = "computes in float32 or float64, got bfloat16; use executor native"
            assert reasons[name] == why
        assert reasons["onnx"] is not None


def test_rounded_layers() -> None:
    """What the rule compares with: weights and inputs are rounded, sums and all else not."""
    x, weight, bias = torch.randn(3, 5), torch.randn(2, 5), torch.randn(2)
    expected = x.bfloat16().float() @ weight.bfloat16().float().T + bias
    with RoundedLayers():
        found, total, plain = F.linear(x, weight, bias), x.sum(), x @ weight.T
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    assert not torch.equal(found, F.linear(x, weight, bias))
    assert torch.equal(total, x.sum())
    assert torch.equal(plain, x @ weight.T)
