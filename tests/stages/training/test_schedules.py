"""Learning rates: torch's OneCycleLR is the oracle; warmup and cosine by what they must pass through."""

from __future__ import annotations

import numpy as np
import pytest

from edgedl.errors import UsageError
from edgedl.stages.training.options import Augment, Training
from edgedl.stages.training.schedules import rate


@pytest.mark.parametrize(("steps", "rising"), [(940, None), (50, 0.5), (7, 0.3)])
def test_one_cycle_is_torchs(steps: int, rising: float | None) -> None:
    torch = pytest.importorskip("torch", reason="needs torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.02, total_steps=steps, pct_start=rising or 0.3)
    expected = []
    for _ in range(steps):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        if len(expected) < steps:
            schedule.step()
    options = Training(optimizer="sgd", schedule="one-cycle", warmup=rising)
    np.testing.assert_allclose([rate(options, i, steps) for i in range(steps)], expected, rtol=1e-9, atol=1e-12)


def test_one_cycle_of_one_step_is_taken_at_the_peak() -> None:
    assert rate(Training(schedule="one-cycle", learning_rate=0.5), 0, 1) == 0.5


@pytest.mark.parametrize("schedule", ["cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 10, 100])
def test_it_rises_to_the_peak_and_stays_or_falls(schedule: str, steps: int) -> None:
    options = Training(schedule=schedule, learning_rate=0.5, warmup=0.2)  # type: ignore[arg-type]
    rates = [rate(options, i, steps) for i in range(steps)]
    assert all(0 < r <= 0.5 for r in rates)
    top = int(np.argmax(rates))
    assert np.all(np.diff(rates[: top + 1]) > 0)
    assert np.all(np.diff(rates[top:]) <= 0)
    if steps == 100:
        assert max(rates) == pytest.approx(0.5)
        assert rates[-1] == (pytest.approx(0.5) if schedule == "constant" else pytest.approx(0, abs=1e-3))


@pytest.mark.parametrize(
    "wrong",
    [{"epochs": -1}, {"batch_size": 0}, {"learning_rate": 0.0}, {"warmup": 1.0}, {"ema": 1.0}, {"momentum": -0.1},
     {"weight_decay": -1.0}, {"clip_norm": -1.0}],
)  # fmt: skip
def test_options_that_cannot_be_are_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Training(**wrong)  # type: ignore[arg-type]


@pytest.mark.parametrize("wrong", [{"shift": -1}, {"crop": 1.0}, {"mixup": -1.0}, {"time_shift": 1.0}, {"noise": -0.1}])
def test_augmentation_that_cannot_be_is_refused_by_name(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"augment.{next(iter(wrong))}"):
        Augment(**wrong)  # type: ignore[arg-type]
