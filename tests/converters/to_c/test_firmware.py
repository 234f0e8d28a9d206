"""Firmware as it is handed out: the folder builds as it stands, names are C's, and what cannot be is told in one sentence."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from edgedl.cli import cli
from edgedl.converters.to_c import firmware
from edgedl.errors import ConversionError, ModelError, UsageError

from .harness import COMPILER, Node, T, check, reference, write

RNG = np.random.default_rng(0)


def dense(path: Path, **changes: Any) -> Path:
    """8 -> 5 -> 3, int8."""
    first, second = (RNG.integers(-127, 128, shape, np.int8) for shape in ((5, 8), (3, 5)))
    tensors = [
        T([1, 8], scale=0.05, zero=3), T([5, 8], scale=0.01, data=first), T([1, 5], scale=0.1, zero=-9),
        T([3, 5], scale=0.01, data=second), T([1, 3], scale=0.1, zero=4),
    ]  # fmt: skip
    for index, tensor in changes.get("tensors", {}).items():
        tensors[index] = tensor
    options = {"table": "FullyConnectedOptions"}
    nodes = [
        Node("FULLY_CONNECTED", [0, 1], [2], **options),
        Node(changes.get("kind", "FULLY_CONNECTED"), [2, 3], [4], **options),
    ]
    return write(path, tensors, nodes, [0], [4])


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_the_example_builds_and_gives_what_litert_gives(tmp_path: Path) -> None:
    path = dense(tmp_path / "Two Layers.tflite")
    done = CliRunner().invoke(cli, ["firmware", str(path), "-o", str(tmp_path / "out")], catch_exceptions=False)
    assert done.exit_code == 0
    assert "two_layers_invoke() needs an arena of" in done.output
    out = tmp_path / "out"
    sources = [str(p) for p in (out / "src").glob("*.c")]
    command = [str(COMPILER), "-std=c99", "-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror", f"-I{out}/src", *sources,
               str(out / "examples/example.c"), "-o", str(out / "example")]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    found = subprocess.run([str(out / "example")], check=True, capture_output=True, text=True, timeout=10).stdout
    expected = reference(path, [[np.zeros((1, 8), np.int8)]])[0][0]
    assert [int(v) for v in found.split()] == expected.ravel().tolist()


@pytest.mark.skipif(shutil.which("cmake") is None or COMPILER is None, reason="no CMake")
def test_cmake_builds_the_folder(tmp_path: Path) -> None:
    made = firmware(dense(tmp_path / "net.tflite"))
    for name, text in made.library().items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
    for command in (["cmake", "-S", "out", "-B", "build"], ["cmake", "--build", "build"]):
        subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    assert (tmp_path / "build" / "net_example").is_file()


def test_every_file_says_that_it_is_free_to_use(tmp_path: Path) -> None:
    files = firmware(dense(tmp_path / "net.tflite")).library()
    assert {p for p in files if p.startswith("src/")} == {
        f"src/{n}" for n in ("net.c", "net.h", "dense.c", "dense.h", "edgedl_nn.h")
    }
    for name, text in files.items():
        if name.endswith((".c", ".h", ".ino")):
            assert "SPDX-License-Identifier: 0BSD" in "".join(text.splitlines(True)[:3]), name
        assert "$" not in text.replace("${", "").replace("$<", ""), f"{name} has a hole in its template"


def test_two_models_can_live_in_one_program(tmp_path: Path) -> None:
    path = dense(tmp_path / "net.tflite")
    one, two = firmware(path, name="one"), firmware(path, name="two")
    assert one.sources["one.c"] != two.sources["two.c"]
    shared = set(one.sources) & set(two.sources)
    assert all(one.sources[name] == two.sources[name] for name in shared), "kernels do not depend on the model"


@pytest.mark.parametrize("name", ["3d", "a-b", "for", "dense", "edgedl_nn", "stdint", 'x"; system("'])
def test_a_name_that_c_cannot_have_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"is no name for C|is the name of another C file"):
        firmware(dense(tmp_path / "net.tflite"), name=name)


def test_hostile_names_of_tensors_stay_inside_comments(tmp_path: Path) -> None:
    path = dense(tmp_path / "net.tflite")
    bad = b"*/ int x; /*\n#include <stdio.h>\\"
    from edgedl.converters import _tflite

    model = _tflite.read(path)
    for tensor in model.subgraphs[0].tensors:
        tensor.name = bad
    path.write_bytes(_tflite.pack(model))
    text = firmware(path).sources["net.c"] + firmware(path).sources["net.h"]
    assert "#include <stdio.h>" not in [line.strip() for line in text.splitlines()]
    assert "*/ int x" not in text


def test_what_cannot_be_is_told_all_at_once(tmp_path: Path) -> None:
    tensors = [T([1, 4], scale=0.1), T([1, 4], scale=0.1), T([1, 4], scale=0.1)]
    nodes = [Node("CUMSUM", [0], [1]), Node("COMPLEX_ABS", [1], [2])]
    with pytest.raises(ConversionError, match=r"2 operators that firmware cannot have.*CUMSUM.*COMPLEX_ABS"):
        firmware(write(tmp_path / "odd.tflite", tensors, nodes, [0], [2]))


def test_a_float_model_is_offered_to_be_quantized(tmp_path: Path) -> None:
    path = dense(
        tmp_path / "f.tflite", tensors={2: T([1, 5], "float32"), 0: T([1, 8], "float32"), 4: T([1, 3], "float32")}
    )
    with pytest.raises(ConversionError, match="is float") as told:
        firmware(path)
    assert "--quantize int8" in told.value.next


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path: Path) -> None:
    path = dense(tmp_path / "net.tflite")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("keep")
    done = CliRunner().invoke(cli, ["firmware", str(path), "-o", str(tmp_path / "out")])
    assert done.exit_code != 0
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = dense(tmp_path / "net.tflite")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError):
        firmware(path)


def test_a_model_that_is_named_as_a_kernel_gets_another_name(tmp_path: Path) -> None:
    assert firmware(dense(tmp_path / "dense.tflite")).name == "dense_model"
    assert firmware(dense(tmp_path / "string.tflite")).name == "string_model"


def test_files_of_another_firmware_do_not_stay(tmp_path: Path) -> None:
    path, out = dense(tmp_path / "net.tflite"), tmp_path / "out"
    for name in ("one", "two"):
        done = CliRunner().invoke(cli, ["firmware", str(path), "-o", str(out), "--name", name, "--force"])
        assert done.exit_code == 0
        (out / "src/mine.c").write_text("/* not edgedl's */")
    assert {p.name for p in (out / "src").iterdir()} == {
        "two.c",
        "two.h",
        "dense.c",
        "dense.h",
        "edgedl_nn.h",
        "mine.c",
    }


@pytest.mark.skipif(COMPILER is None, reason="no C compiler")
def test_the_example_knows_every_input_and_float_outputs(tmp_path: Path) -> None:
    tensors = [
        T([1, 4], "float32"),
        T([1, 4], scale=0.1),
        T([1, 4], scale=0.1),
        T([1, 4], scale=0.2),
        T([1, 4], "float32"),
    ]
    nodes = [
        Node("QUANTIZE", [0], [1]), Node("ADD", [1, 2], [3], {}, "AddOptions"), Node("DEQUANTIZE", [3], [4], {}, "DequantizeOptions"),
    ]  # fmt: skip
    made = firmware(write(tmp_path / "two.tflite", tensors, nodes, [0, 2], [4]))
    for name, text in made.library().items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_text(text)
    out = tmp_path / "out"
    assert "converted in floating point" in (out / "README.md").read_text()
    sources = [str(p) for p in (out / "src").glob("*.c")]
    command = [
        str(COMPILER),
        "-std=c99",
        "-Wall",
        "-Wextra",
        "-Werror",
        f"-I{out}/src",
        *sources,
        str(out / "examples/example.c"),
        "-o",
        str(out / "x"),
    ]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    found = subprocess.run([str(out / "x")], check=True, capture_output=True, text=True, timeout=10).stdout
    assert [float(v) for v in found.split()] == [0.0] * 4


def image(path: Path, pad: T, bias: Any = None) -> Path:
    """PAD by one on all sides, then a 3x3 convolution."""
    tensors = [
        T([1, 4, 4, 2], scale=0.05, zero=3), T([4, 2], "int32", data=np.array([[0, 0], [1, 1], [1, 1], [0, 0]], np.int32)), pad,
        T([2, 3, 3, 2], scale=0.01, data=RNG.integers(-99, 99, (2, 3, 3, 2), np.int8)),
        bias or T([2], "int32", scale=5e-4, data=np.array([9, -9], np.int32)), T([1, 4, 4, 2], scale=0.1),
    ]  # fmt: skip
    options = {"padding": 1, "strideH": 1, "strideW": 1, "dilationHFactor": 1, "dilationWFactor": 1}
    nodes = [Node("PAD", [0, 1], [2], {}, "PadOptions"), Node("CONV_2D", [2, 3, 4], [5], options, "Conv2DOptions")]
    return write(path, tensors, nodes, [0], [5])


def test_a_pad_that_changes_the_scale_is_not_folded_away(tmp_path: Path) -> None:
    same = image(tmp_path / "a.tflite", T([1, 6, 6, 2], scale=0.05, zero=3))
    assert [layer.op for layer in firmware(same).layers] == ["CONV_2D"]
    check(same, tmp_path / "c", [[RNG.integers(-128, 128, (1, 4, 4, 2), np.int8)] for _ in range(3)])
    with pytest.raises(ConversionError, match="PAD"):
        firmware(image(tmp_path / "b.tflite", T([1, 6, 6, 2], scale=0.07, zero=3)))


def test_a_bias_of_another_type_and_two_outputs_are_refused(tmp_path: Path) -> None:
    wrong = T([2], "float32", data=np.array([1.5, 2.5], np.float32))
    with pytest.raises(ConversionError, match="its bias is float32"):
        firmware(image(tmp_path / "a.tflite", T([1, 6, 6, 2], scale=0.05, zero=3), wrong))
    two = write(tmp_path / "b.tflite", [T([1, 4], scale=0.1)] * 3, [Node("RELU", [0], [1, 2])], [0], [1, 2])
    with pytest.raises(ConversionError, match="it has 2 outputs"):
        firmware(two)
