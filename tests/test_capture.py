"""What may be asked of a model's attention, and how the answer is laid out."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
from attendrite import AttendriteError, Capture
from attendrite.capture import (
    STATISTICS,
    AttentionRecord,
    Request,
    Site,
    TokenTable,
    concatenate,
)
from attendrite.kernels import attention
from hypothesis import given
from hypothesis import strategies as st

SITES = [
    Site("encoder", 2, 16, "tokens"),
    *(Site(f"processor.{i}", 4, 16, "latents") for i in range(12)),
    Site("decoder", 2, 16, "latents"),
]


def plan(*texts: str) -> dict[str, list[str]]:
    found = Capture.parse(texts).plan(SITES)
    return {site: [str(r) for r in requests.values()] for site, requests in found.items()}


def test_both_forms_ask_the_same() -> None:
    wanted = {"processor.*": "per_key", "encoder": ["per_unit:spikes", "top_k:10"]}
    texts = ["processor.*:per_key", "encoder:per_unit:spikes", "encoder:top_k:10"]
    assert Capture(wanted).plan(SITES) == Capture.parse(texts).plan(SITES)
    assert repr(Capture(wanted)) == f"Capture({', '.join(map(repr, texts))})"


def test_a_pattern_finds_its_sites_in_the_order_of_the_model() -> None:
    assert list(plan("decoder:lse", "processor.*:lse")) == [s.name for s in SITES[1:]]
    assert list(plan("processor.1*:lse")) == ["processor.1", "processor.10", "processor.11"]
    assert list(plan("processor.1:lse")) == ["processor.1"]
    assert list(plan("*r:lse")) == ["encoder", "decoder"]
    assert len(plan("*:entropy")) == len(SITES)


def test_a_dot_is_a_dot() -> None:
    with pytest.raises(AttendriteError, match=r"unknown site 'processor\+1'"):
        plan("processor+1:lse")
    with pytest.raises(AttendriteError, match=r"unknown site 'proce\[s\]sor.1'"):
        plan("proce[s]sor.1:lse")


def test_options_have_defaults_and_are_kept() -> None:
    assert plan("encoder:per_unit", "encoder:per_query_unit:all", "encoder:partials:spikes") == {
        "encoder": ["per_unit", "per_query_unit", "partials:spikes"]
    }
    assert Request.parse("per_unit:all") == Request.parse("per_unit")


def test_asking_twice_the_same_is_asking_once() -> None:
    assert plan("*:lse", "encoder:lse", "encoder:per_unit", "encoder:per_unit:all")["encoder"] == [
        "lse",
        "per_unit",
    ]


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["encoder"], "a capture must read SITE:STATISTIC[:OPTION], got 'encoder'"),
        ([":lse"], "a capture must read SITE:STATISTIC[:OPTION]"),
        (["encoder:"], "a capture must read SITE:STATISTIC[:OPTION]"),
        (["encoder:sum"], "unknown statistic 'sum'; known: weights, per_key, per_unit"),
        (["encoder:top_k"], "top_k must have a number of keys, got 'top_k'; write top_k:10"),
        (["encoder:top_k:0"], "top_k must have a number of keys"),
        (["encoder:top_k:-3"], "top_k must have a number of keys"),
        (["encoder:top_k:²"], "top_k must have a number of keys"),
        (["encoder:per_unit:start"], "unknown option of per_unit 'start'; known: all, spikes"),
        (["encoder:lse:2"], "statistic 'lse' must have no option, got '2'"),
        (["block.0:lse"], "unknown site 'block.0'; known: encoder, processor.0"),
        (["block.*:lse"], "unknown site 'block.*'; known: encoder"),
        (
            ["processor.3:per_unit"],
            "site 'processor.3' has latent keys, no units; ask per_key",
        ),
        (["decoder:partials"], "site 'decoder' has latent keys, no units; ask per_key"),
        (["*:per_query_unit"], "site 'processor.0' has latent keys, no units; ask per_key"),
        (
            ["encoder:per_unit:spikes", "encoder:per_unit:all"],
            "per_unit at 'encoder' must be asked for once, got per_unit:spikes and per_unit",
        ),
        (["encoder:top_k:1", "*:top_k:2"], "top_k at 'encoder' must be asked for once"),
    ],
)
def test_what_cannot_be_asked(texts: list[str], message: str) -> None:
    with pytest.raises(AttendriteError, match=re.escape(message)):
        plan(*texts)


@given(st.text(max_size=30))
def test_any_text_is_understood_or_refused(text: str) -> None:
    try:
        found = plan(text)
    except AttendriteError:
        return
    site, _, request = text.partition(":")
    assert all(str(Request.parse(request)) in requests for requests in found.values())
    assert site.replace("*", "") in "".join(found)


def test_a_site_says_what_it_admits() -> None:
    assert SITES[0].statistics == tuple(STATISTICS)
    assert set(SITES[0].statistics) - set(SITES[1].statistics) == {
        "per_unit",
        "per_query_unit",
        "partials",
    }


def test_the_kernels_know_every_statistic_but_the_one_of_the_layer() -> None:
    assert set(STATISTICS) == {*attention.STATISTICS, "head_output"} - {*attention.OVER_HEADS}


def record(n_windows: int, n_keys: int, start: int) -> AttentionRecord:
    windows = np.arange(start, start + n_windows, dtype=np.float32)
    weights = np.ones((n_windows, 2, 3, n_keys), np.float32) * windows[:, None, None, None]
    table = TokenTable(
        unit=np.full((n_windows, n_keys), 7, np.int32),
        type=np.full((n_windows, n_keys), 1, np.int8),
        time=np.full((n_windows, n_keys), 0.5),
        lengths=np.full(n_windows, n_keys),
    )
    values: dict[tuple[str, str], Any] = {
        ("encoder", "weights"): weights,
        ("encoder", "per_key"): weights.sum(2),
        ("encoder", "lse"): weights[..., 0],
    }
    return AttentionRecord(values, {"encoder": table}, ("a", "b"))


def test_records_of_consecutive_windows_join_with_padded_keys() -> None:
    joined = concatenate([record(2, 3, 0), record(1, 5, 2)])
    weights = joined["encoder", "weights"]
    assert weights.shape == (3, 2, 3, 5)
    assert (weights[:2, ..., 3:] == 0).all()
    assert (weights[2] == 2).all()
    np.testing.assert_array_equal(joined["encoder", "per_key"][1, 0], [3, 3, 3, 0, 0])
    np.testing.assert_array_equal(joined["encoder", "lse"][:, 0, 0], [0, 1, 2])
    table = joined.tokens["encoder"]
    np.testing.assert_array_equal(table.lengths, [3, 3, 5])
    np.testing.assert_array_equal(table.unit, [[7, 7, 7, 0, 0], [7, 7, 7, 0, 0], [7] * 5])
    np.testing.assert_array_equal(table.time[0], [0.5, 0.5, 0.5, 0, 0])
    assert joined.unit_ids == ("a", "b")


def test_a_record_names_its_axes_and_files() -> None:
    one = record(1, 3, 0)
    assert one.axes("weights") == ("window", "head", "query", "key")
    assert one.axes("partials.output") == ("window", "head", "query", "unit", "width")
    assert list(one) == [("encoder", "weights"), ("encoder", "per_key"), ("encoder", "lse")]
    assert set(one.arrays()) == {
        "attention/encoder/weights",
        "attention/encoder/per_key",
        "attention/encoder/lse",
        "attention/encoder/tokens.unit",
        "attention/encoder/tokens.type",
        "attention/encoder/tokens.time",
        "attention/encoder/tokens.lengths",
    }
    with pytest.raises(AttendriteError, match="unknown captured statistic"):
        one["encoder", "entropy"]
    with pytest.raises(AttendriteError, match="unknown captured array 'sum'"):
        one.axes("sum")
