"""The memory planner: what is alive together lies apart, what may overlap does so by its lead, and the bound is a bound."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgedl.converters.to_c.overlap import lead_of_windows
from edgedl.converters.to_c.planner import ALIGN, Buffer, Overlaps, Plan, lower_bound, plan


def aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def meets(a: Buffer, b: Buffer) -> bool:
    return a.first <= b.last and b.first <= a.last


def allowed(buffers: Sequence[Buffer], offsets: Sequence[int], overlaps: Overlaps, i: int, j: int) -> bool:
    """Whether buffers `i` and `j` lie as they may."""
    a, b = offsets[i], offsets[j]
    if not meets(buffers[i], buffers[j]) or a + buffers[i].size <= b or b + buffers[j].size <= a:
        return True
    return ((i, j) in overlaps and b + overlaps[i, j] <= a) or ((j, i) in overlaps and a + overlaps[j, i] <= b)


def is_valid(buffers: Sequence[Buffer], offsets: Sequence[int], overlaps: Overlaps) -> bool:
    pairs = itertools.combinations(range(len(buffers)), 2)
    return all(allowed(buffers, offsets, overlaps, i, j) for i, j in pairs)


@st.composite
def problems(draw: st.DrawFn, most: int = 12, largest: int = 100) -> tuple[list[Buffer], dict[tuple[int, int], int]]:
    """Buffers with lifetimes, and overlaps as a program has them: read for the last time where the other is made."""
    buffers = []
    for i in range(draw(st.integers(1, most))):
        first = draw(st.integers(0, 8))
        last = draw(st.integers(first, 9))
        buffers.append(Buffer(f"b{i}", draw(st.integers(0, largest)), first, last))
    pairs = [(i, j) for i, a in enumerate(buffers) for j, b in enumerate(buffers) if i != j and a.last == b.first]
    pairs = [(i, j) for i, j in pairs if (j, i) not in pairs]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    return buffers, {pair: draw(st.integers(0, largest)) for pair in chosen}


@given(problems())
@settings(max_examples=200, deadline=None)
def test_no_two_buffers_that_are_alive_together_share_bytes_unless_allowed(
    problem: tuple[list[Buffer], dict[tuple[int, int], int]],
) -> None:
    buffers, overlaps = problem
    made = plan(buffers, overlaps)
    assert is_valid(buffers, made.offsets, overlaps)
    assert all(offset >= 0 and offset % ALIGN == 0 for offset in made.offsets)
    assert made.total == max(offset + aligned(b.size) for offset, b in zip(made.offsets, buffers, strict=True))
    assert made.bound <= made.total


@given(problems(most=4, largest=20))
@settings(max_examples=150, deadline=None)
def test_the_bound_is_below_every_plan_and_tiny_plans_are_the_best(
    problem: tuple[list[Buffer], dict[tuple[int, int], int]],
) -> None:
    buffers, overlaps = problem
    made = plan(buffers, overlaps)
    best = smallest(buffers, overlaps, made)
    assert lower_bound(buffers, overlaps) <= best
    assert made.total == best


def smallest(buffers: Sequence[Buffer], overlaps: Overlaps, made: Plan) -> int:
    """The least total of all plans, by trying every offset below the plan's own."""
    order = sorted(range(len(buffers)), key=lambda i: -buffers[i].size)
    best = made.total
    offsets = [-1] * len(buffers)

    def lay(k: int, top: int) -> None:
        nonlocal best
        if k == len(order):
            best = min(best, top)
            return
        i = order[k]
        size = aligned(buffers[i].size)
        for at in range(0, best - size + 1, ALIGN):
            if max(top, at + size) >= best:
                break
            offsets[i] = at
            if all(allowed_aligned(i, j) for j in order[:k]):
                lay(k + 1, max(top, at + size))
        offsets[i] = -1

    def allowed_aligned(i: int, j: int) -> bool:
        whole = [Buffer(b.name, aligned(b.size), b.first, b.last) for b in buffers]
        return allowed(whole, offsets, {pair: aligned(lead) for pair, lead in overlaps.items()}, i, j)

    lay(0, 0)
    return best


def test_an_elementwise_chain_needs_one_buffer() -> None:
    buffers = [Buffer(f"b{i}", 64, i, i + 1) for i in range(5)]
    made = plan(buffers, {(i, i + 1): 0 for i in range(4)})
    assert (made.total, made.bound) == (64, 64)
    assert plan(buffers, {}).total == 128


def test_a_growing_output_begins_before_its_input() -> None:
    buffers = [Buffer("small", 40, 0, 1), Buffer("large", 60, 1, 2)]
    assert plan(buffers, {(0, 1): 8}).total == 60
    assert plan(buffers, {(0, 1): 24}).total == 64  # small lies at 24
    assert plan(buffers, {(0, 1): 1000}).total == 100


def test_nothing_needs_nothing() -> None:
    assert plan([], {}) == Plan((), 0, 0)


@st.composite
def windows(draw: st.DrawFn) -> dict[str, int]:
    stride_h, stride_w = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    top, left = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    kernel_h, kernel_w = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    out_h, out_w = draw(st.integers(1, 5)), draw(st.integers(1, 5))
    return {
        "in_h": max((out_h - 1) * stride_h + kernel_h - top - draw(st.integers(0, 1)), 1), "out_h": out_h,
        "in_w": max((out_w - 1) * stride_w + kernel_w - left - draw(st.integers(0, 1)), 1), "out_w": out_w,
        "in_c": draw(st.integers(1, 5)), "out_c": draw(st.integers(1, 5)), "stride_h": stride_h, "stride_w": stride_w,
        "pad_top": top, "pad_left": left, "kernel_h": kernel_h, "kernel_w": kernel_w,
    }  # fmt: skip


@given(windows(), st.integers(1, 4))
@settings(max_examples=150, deadline=None)
def test_the_lead_of_windows_is_the_least_that_is_safe(fields: dict[str, int], at_once: int) -> None:
    lead = lead_of_windows(fields, at_once)
    assert runs_over_itself(fields, at_once, lead)
    assert lead == 0 or not runs_over_itself(fields, at_once, lead - 1) or not reads_all(fields)


def reads_all(fields: dict[str, int]) -> bool:
    """Whether the first byte of each window lies inside the input: where it does not, the lead is on the safe side."""
    rows = (fields["out_h"] - 1) * fields["stride_h"] - fields["pad_top"] < fields["in_h"]
    columns = (fields["out_w"] - 1) * fields["stride_w"] - fields["pad_left"] < fields["in_w"]
    return rows and columns and fields["pad_top"] == 0 == fields["pad_left"]


def runs_over_itself(fields: dict[str, int], at_once: int, lead: int) -> bool:
    """Whether a kernel that goes over the pixels never reads a byte that it has written; the input begins at `lead`."""
    written: set[int] = set()
    pixels = [(y, x) for y in range(fields["out_h"]) for x in range(fields["out_w"])]
    for first in range(0, len(pixels), at_once):
        group = pixels[first : first + at_once]
        if any(byte + lead in written for pixel in group for byte in window(fields, *pixel)):
            return False
        written |= set(range(first * fields["out_c"], (first + len(group)) * fields["out_c"]))
    return True


def window(fields: dict[str, int], y: int, x: int) -> list[int]:
    """The bytes of the input that a pixel of the output is made of."""
    found = []
    for i, j in itertools.product(range(fields["kernel_h"]), range(fields["kernel_w"])):
        row, column = y * fields["stride_h"] - fields["pad_top"] + i, x * fields["stride_w"] - fields["pad_left"] + j
        if 0 <= row < fields["in_h"] and 0 <= column < fields["in_w"]:
            start = (row * fields["in_w"] + column) * fields["in_c"]
            found += range(start, start + fields["in_c"])
    return found


@pytest.mark.parametrize("count", [60])
def test_many_buffers_are_planned_in_a_moment(count: int) -> None:
    buffers = [Buffer(f"b{i}", 100 + 37 * i % 900, i, i + 2 + i % 5) for i in range(count)]
    made = plan(buffers, {})
    assert made.total <= 1.3 * made.bound
