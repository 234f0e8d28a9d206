"""The algebra of factors: numpy reshapes and transposes real data, and the labels must say where every entry went."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.converters.from_onnx.layout import Batch, Factor, NotFree, aligned, flat, new_dims, regroup, runs, shape


def arranged(
    data: np.ndarray, order: tuple[Factor, ...], dims: tuple[tuple[Factor, ...], ...], batch: int
) -> np.ndarray:
    """What the labels claim: data that lies in `order`, as an array of `dims`."""
    lengths = [f.size * (batch if f.free else 1) for f in order]
    moved = data.reshape(lengths).transpose([order.index(f) for f in flat(dims)])
    return moved.reshape([math.prod(f.size * (batch if f.free else 1) for f in d) for d in dims])


@st.composite
def chains(draw: st.DrawFn) -> tuple[tuple[int, ...], list[tuple[str, list[int]]]]:
    """A shape of small composite lengths, and a chain of reshapes (by merging and splitting) and transposes."""
    lengths = draw(st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=1, max_size=4))
    now, steps = list(lengths), []
    for _ in range(draw(st.integers(1, 6))):
        if draw(st.booleans()):
            order = draw(st.permutations(range(len(now))))
            steps.append(("transpose", list(order)))
            now = [now[i] for i in order]
        else:
            now = draw(regroupings(now))
            steps.append(("reshape", list(now)))
    return tuple(lengths), steps


@st.composite
def regroupings(draw: st.DrawFn, lengths: list[int]) -> list[int]:
    parts: list[int] = []
    for n in lengths:
        divisors = [d for d in range(1, n + 1) if n % d == 0]
        d = draw(st.sampled_from(divisors))
        parts += [d, n // d] if draw(st.booleans()) else [n]
    out = [parts[0]]
    for p in parts[1:]:
        if draw(st.booleans()) and len(out) < 7:
            out.append(p)
        else:
            out[-1] *= p
    return out


@settings(max_examples=300, deadline=None)
@given(chains())
def test_labels_follow_numpy_through_any_chain(case: tuple[tuple[int, ...], list[tuple[str, list[int]]]]) -> None:
    lengths, steps = case
    data = np.arange(math.prod(lengths)).reshape(lengths)
    dims = new_dims(lengths)
    order = flat(dims)
    lying = data.reshape(-1)
    wanted = data
    for kind, values in steps:
        if kind == "transpose":
            dims = tuple(dims[i] for i in values)
            wanted = wanted.transpose(values)
            continue
        wanted = wanted.reshape(values)
        found = regroup(dims, values)
        if found is None:  # it does not fit the factors: the data is laid out and told anew
            lying, dims = wanted.reshape(-1), new_dims(values)
            order = flat(dims)
            continue
        dims, splits = found
        dims = splits.apply(dims)
        (order,) = splits.apply((order,))
    assert shape(dims) == wanted.shape
    np.testing.assert_array_equal(arranged(lying, order, dims, 1), wanted)


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 5), st.sampled_from([2, 3, 4, 6]), st.sampled_from([2, 4, 6]))
def test_the_batch_may_be_joined_with_another_dimension_and_parted_again(batch: int, a: int, b: int) -> None:
    n, c, d = Factor(1, free=True), Factor(a), Factor(b)
    joined = regroup(((n,), (c,), (d,)), [Batch(a), b])
    assert joined is not None
    dims, splits = joined
    assert not splits.parts
    assert dims == ((n, c), (d,))
    parted = regroup(dims, [Batch(1), a, b])
    assert parted is not None
    assert parted[0] == ((n,), (c,), (d,))
    data = np.arange(batch * a * b)
    np.testing.assert_array_equal(arranged(data, (n, c, d), dims, batch), data.reshape(batch * a, b))


def test_a_literal_one_is_the_batch_that_the_file_was_written_with() -> None:
    n, c = Factor(1, free=True), Factor(12)
    found = regroup(((n,), (c,)), [1, 3, 4])
    assert found is not None
    assert found[0][0] == (n,)
    assert shape(found[1].apply(found[0])) == (None, 3, 4)


def test_a_reshape_that_drops_the_batch_means_exactly_one() -> None:
    with pytest.raises(NotFree):
        regroup(((Factor(12),), (Factor(1, free=True),)), [12])


def test_a_reshape_across_factors_moves_data() -> None:
    assert regroup(((Factor(4),), (Factor(6),)), [3, 8]) is None


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=4),
    st.lists(st.sampled_from([2, 3, 4]), min_size=1, max_size=4),
)
def test_two_dimensions_are_cut_into_the_same_pieces_or_not_at_all(a: list[int], b: list[int]) -> None:
    left, right = (tuple(Factor(n) for n in v) for v in (a, b))
    found = aligned(left, right)
    cuts = [set(np.cumprod(v).tolist()) for v in (a, b)]
    if found is None:
        union = sorted(cuts[0] | cuts[1])
        assert math.prod(a) != math.prod(b) or any(y % x for x, y in itertools.pairwise(union))
        return
    assert [f.size for f in found[0]] == [f.size for f in found[1]]
    assert math.prod(f.size for f in found[0]) == math.prod(a) == math.prod(b)


def test_factors_that_stay_together_are_moved_together() -> None:
    n, c, h, w = (Factor(s) for s in (2, 3, 4, 5))
    pieces, order = runs((n, h, w, c), ((n,), (c,), (h,), (w,)))
    assert pieces == [(n,), (h, w), (c,)]
    assert order == [0, 2, 1]
