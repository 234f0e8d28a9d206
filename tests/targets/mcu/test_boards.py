"""Boards, the estimate of cycles, and the targets that bench uses: a firmware's folder in, outputs and figures out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgedl.artifact import Artifact, TensorSpec
from edgedl.errors import DataError, TargetError, UsageError
from edgedl.options import build as from_table
from edgedl.registry import entries, find
from edgedl.targets.mcu import cycles, machine
from edgedl.targets.mcu.boards import Profile, energy, fits, profile_of, profiles
from edgedl.targets.mcu.cores import CORES, core_of
from edgedl.targets.mcu.image import build
from edgedl.targets.mcu.machine import Machine
from edgedl.targets.mcu.target import Microcontroller

from .models import ARENA, TWO_LAYERS, broken, expected

pytest.importorskip("unicorn", reason="needs unicorn: pip install 'edgedl[mcu]'")
pytest.importorskip("ziglang", reason="needs ziglang: pip install 'edgedl[mcu]'")
BOARDS = ("stm32f4", "stm32l4", "stm32h7", "nrf52840", "rp2040", "esp32c3", "apollo4", "m55")
X = np.random.default_rng(3).integers(-128, 128, (1, 16)).astype(np.int8)


def folder(path: Path, sources: dict[str, str] = TWO_LAYERS, **changes: Any) -> Artifact:
    """A firmware as a folder."""
    (path / "src").mkdir(parents=True)
    for name, text in sources.items():
        (path / "src" / name).write_text(text)
    told: dict[str, Any] = {
        "name": "net",
        "arena_bytes": ARENA,
        "inputs": [{"spec": {"name": "x", "shape": [1, 16], "dtype": "int8", "scale": 0.1, "zero_point": 0}, "offset": 0, "nbytes": 16}],
        "outputs": [{"spec": {"name": "y", "shape": [1, 8], "dtype": "int32"}, "offset": 16, "nbytes": 32}],
        "layers": [{"name": "dense"}, {"name": "square"}],
    }  # fmt: skip
    specs = (TensorSpec("x", (1, 16), "int8", 0.1, 0),), (TensorSpec("y", (1, 8), "int32"),)
    return Artifact(path, "c", *specs, metadata={"firmware": {**told, **changes}})


def test_every_board_says_where_its_figures_come_from() -> None:
    assert set(profiles()) == set(BOARDS)
    for profile in profiles().values():
        assert profile.source
        assert profile.core in CORES
        assert 64 << 10 < profile.ram <= profile.flash
        assert 16 < profile.clock_mhz < 1000
        known = profile.current_ua_per_mhz, profile.volts, profile.current_source
        assert all(known) or not any(known)
    assert profile_of("nrf52840").joules_per_cycle == pytest.approx(156e-12)
    told = energy(profile_of("stm32l4"), 1e6)
    assert told is not None
    assert told["joules"] == pytest.approx(300e-6)
    assert told["estimate"] is True
    assert energy(profile_of("m55"), 1e6) is None


@pytest.mark.parametrize("find_one", [profile_of, core_of])
def test_an_unknown_name_is_an_error_with_a_suggestion(find_one: Any) -> None:
    with pytest.raises(UsageError, match="there is no"):
        find_one("stm33")


def test_what_does_not_fit_says_by_how_much_and_what_helps() -> None:
    board = profile_of("stm32l4")
    assert fits(board.flash, board.ram - 100, 90, 10, board).fits
    assert fits(board.flash, board.ram - 100, 90, 10, board).advice == ""
    over = fits(board.flash + 1, 0, 0, 0, board)
    assert not over.fits
    assert "it needs 1 bytes of flash more than stm32l4 has (1,048,576)" in over.advice
    assert "stm32h7" in over.advice
    assert "rp2040" in over.advice
    much = fits(1000, 100_000, 2000, 24, board)
    assert (
        "3,720 bytes of RAM more than the 98,304 of stm32l4 (arena 100,000, stack 2,000, variables 24)" in much.advice
    )
    assert "--budget memory" in much.advice
    assert "another board" not in fits(1 << 30, 0, 0, 0, board).advice


@pytest.mark.parametrize("name", sorted(n for n, path in entries("target").items() if ".mcu." in path))
def test_every_target_runs_a_firmware(name: str, tmp_path: Path) -> None:
    target: Microcontroller = find("target", name)()
    if not target.processor.emulated and shutil.which("qemu-system-arm") is None:
        pytest.skip("needs qemu-system-arm")
    with target.open() as session:
        session.load(folder(tmp_path / "net"))
        outputs, elapsed = session.run({"x": X})
        np.testing.assert_array_equal(outputs["y"], expected(X[0])[None])
        again, same = session.run({"x": X})
        np.testing.assert_array_equal(again["y"], outputs["y"])
        assert elapsed == same > 0
        figures = session.figures()
        json.dumps(figures)
        assert [layer["name"] for layer in figures["instructions"]["layers"]] == ["dense", "square"]
        assert figures["instructions"]["total"] > 200
        assert figures["flash"]["total"] == sum(figures["flash"][k] for k in ("code", "constants", "data"))
        assert figures["ram"] == {
            "arena": ARENA,
            "stack": figures["ram"]["stack"],
            "static": 24,
            "total": figures["peak_bytes"],
        }
        assert figures["cycles"]["estimate"] is True
        assert figures["cycles"]["total"] >= figures["instructions"]["total"]
        assert elapsed == round(figures["cycles"]["total"] / session.environment()["clock_mhz"] * 1e3)
        assert ("board" in figures) == bool(target.board)
        assert session.environment()["core"] == target.processor.name
        json.dumps(session.environment())


@pytest.mark.parametrize(("native", "counted"), [(True, 60), (False, 8)])
def test_many_inputs_are_right_also_where_they_are_no_longer_counted(
    native: bool, counted: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not native:
        monkeypatch.setattr(machine, "native_hook", lambda: None)
    with find("target", "cortex-m4")().open() as session:
        session.load(folder(tmp_path / "net"))
        for seed in range(60):
            x = np.random.default_rng(seed).integers(-128, 128, (1, 16)).astype(np.int8)
            np.testing.assert_array_equal(session.run({"x": x})[0]["y"], expected(x[0])[None])
        assert session.figures()["instructions"]["inputs"] == counted
        many = np.random.default_rng(99).integers(-128, 128, (5, 16)).astype(np.int8)
        outputs, elapsed = session.run({"x": many})
        np.testing.assert_array_equal(outputs["y"], [expected(x) for x in many])
        assert elapsed > 4 * session.run({"x": many[:1]})[1]


def test_a_model_that_is_too_large_for_the_board_is_refused(tmp_path: Path) -> None:
    source = broken("arena[1] = table[arena[2]];", f"static const uint8_t table[{2 << 20}] = {{1}};")
    with find("target", "stm32l4")().open() as session, pytest.raises(TargetError) as told:
        session.load(folder(tmp_path / "net", source))
    assert "does not fit into stm32l4: it needs 1,048," in told.value.message
    assert "another board: esp32c3" in told.value.next


def test_inputs_that_do_not_fit(tmp_path: Path) -> None:
    with find("target", "cortex-m4")().open() as session:
        with pytest.raises(TargetError, match="nothing is loaded"):
            session.run({"x": X})
        session.load(folder(tmp_path / "net"))
        with pytest.raises(DataError, match="'x' is missing"):
            session.run({"z": X})
        for wrong in (X.astype(np.float32), X[:, :8], np.zeros((2, 15), np.int8), np.zeros((0, 16), np.int8)):
            with pytest.raises(DataError, match=r"takes int8 \[1, 16\]"):
                session.run({"x": wrong})


def test_what_is_no_firmware_or_damaged_is_refused(tmp_path: Path) -> None:
    with find("target", "cortex-m4")().open() as session:
        with pytest.raises(TargetError, match="is no firmware") as told:
            session.load(Artifact(tmp_path / "m.onnx", "onnx", (), ()))
        assert "edgedl bench MODEL_int8.tflite" in told.value.next
        with pytest.raises(TargetError, match="is damaged"):
            session.load(folder(tmp_path / "a", inputs=[{"offset": 0}]))
        with pytest.raises(TargetError, match="cannot read the C files"):
            session.load(
                Artifact(tmp_path / "none", "c", (), (), metadata={"firmware": {"name": "net", "arena_bytes": 4}})
            )
        out = [{"spec": {"name": "y", "shape": [1, 8], "dtype": "int32"}, "offset": 40, "nbytes": 32}]
        session.load(folder(tmp_path / "b", outputs=out))
        with pytest.raises(TargetError, match="output 'y' does not lie in the arena"):
            session.run({"x": X})


def test_options_are_checked() -> None:
    cls = find("target", "cortex-m4")
    assert from_table(cls, {"optimize": "s", "max_instructions": 5}, "cortex-m4").optimize == "s"
    with pytest.raises(UsageError, match="max_instructions is 0"):
        cls(max_instructions=0)


# --- the estimate of cycles


@pytest.mark.parametrize(
    ("core", "body", "count"),
    [  # by hand from the table: (instructions, cycles) of the layer, with its return (1 + 2 or 1 + 1)
        ("cortex-m4", "movs r0, #10\\n1: subs r0, r0, #1\\nbne 1b", (22, 1 + 10 * 2 + 9 * 2 + 3)),
        ("cortex-m0plus", "movs r0, #10\\n1: subs r0, r0, #1\\nbne 1b", (22, 1 + 10 * 2 + 9 + 2)),
        (
            "cortex-m4",
            "ldr r0, [sp, #-8]\\nldr r1, [sp, #-8]\\nldr r2, [sp, #-8]\\nstr r2, [sp, #-8]",
            (5, 2 + 1 + 1 + 1 + 3),
        ),
        ("cortex-m3", "umull r0, r1, r2, r3\\nmla r0, r1, r2, r3\\nmul r0, r1, r2", (4, 4 + 2 + 1 + 3)),
        ("cortex-m4", "umull r0, r1, r2, r3\\nsmlad r0, r1, r2, r3\\nmla r0, r1, r2, r3", (4, 1 + 1 + 1 + 3)),
        ("cortex-m4", "push {r0-r3}\\npop {r0-r3}\\nldrd r0, r1, [sp, #-8]", (4, 5 + 5 + 3 + 3)),
        ("cortex-m4", "vldr s0, [sp, #-8]\\nvmul.f32 s0, s0, s0\\nvdiv.f32 s0, s0, s0", (4, 2 + 1 + 14 + 3)),
    ],
)
def test_cycles_are_those_of_the_published_table(core: str, body: str, count: tuple[int, int]) -> None:
    pytest.importorskip("capstone", reason="needs capstone: pip install 'edgedl[mcu]'")
    wrapped = f'__asm__ volatile("{body}" ::: "r0", "r1", "r2", "r3", "cc", "memory");'
    image = build(broken(wrapped), "net", 4, CORES[core])
    for native in (True, False):
        counts = Machine(image, cost=cycles.cost_of(CORES[core]), native=native).run([]).counts
        assert counts is not None
        assert counts.layer_cycles is not None
        assert (counts.layers[1], counts.layer_cycles[1]) == count


def test_cores_without_published_timings_have_no_estimate() -> None:
    for core in ("cortex-m7", "cortex-m33", "rv32imc"):
        assert cycles.cost_of(CORES[core]) is None


def test_a_profile_without_current_has_no_energy() -> None:
    assert Profile("x", "", "cortex-m4", 1, 1, 1.0, "s").joules_per_cycle is None
