"""PyTorch in: the exported graphs compute what torch computes; what would run code, or does not fit, is refused by name.

The oracle is torch itself; ONNX Runtime runs the graphs. Tolerance 1e-5 of the largest value: float32 sums in another
order.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from edgedl.converters import _onnx, from_torch
from edgedl.converters._torch_archive import _check_script, _is_size, read_safetensors
from edgedl.converters._torch_export import runner
from edgedl.converters._torch_inputs import Input, parse, read_inputs
from edgedl.errors import ModelError, UnsafeModelError, UsageError
from edgedl.model import LoadOptions

torch = pytest.importorskip("torch", reason="needs pip install 'edgedl[torch]'")
pytest.importorskip("onnxruntime", reason="needs pip install 'edgedl[onnx]'")

pytestmark = pytest.mark.filterwarnings("ignore")
nn = torch.nn
torch.set_num_threads(1)  # two threads on a busy core wait for each other


def _load_zoo() -> ModuleType:
    path = Path(__file__).parents[1] / "torch_zoo.py"
    spec = importlib.util.spec_from_file_location("edgedl_tests_torch_zoo", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


zoo = _load_zoo()


@pytest.fixture(scope="session")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    folder = tmp_path_factory.mktemp("torch_zoo")
    return lambda name: zoo.export(name, folder)


class Small(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        return self.fc(torch.relu(self.norm(self.conv(x))).mean((2, 3)))


def seeded(module: Any = None) -> Any:
    torch.manual_seed(3)
    return zoo.randomize(module or Small()).eval()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> LoadOptions:
    """Options for a state dict of Small."""
    monkeypatch.setitem(sys.modules, "small_net", ModuleType("small_net"))
    sys.modules["small_net"].build = Small
    return LoadOptions(module="small_net:build", inputs={"x": "1x3x8x8"})


def agrees(path: Path, options: LoadOptions, module: Any, example: dict[str, Any]) -> Any:
    """The graph of a file gives what the module does, with batches of 1 and 3. Returns the Source."""
    source = from_torch.source(path, options)
    for batch in (1, 3):
        x = {k: np.concatenate([v[:1]] * batch) for k, v in example.items()}
        same(runner(module)(x), _onnx.session(source.proto).run(None, x))
        same(runner(module)(x), list(source.reference(x).values()))
    return source


def same(theirs: dict[str, Any], ours: list[Any]) -> None:
    for expected, found in zip(theirs.values(), ours, strict=True):
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


IMAGE = {"x": np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("name", sorted(zoo.BUILDERS))
def test_every_model_of_the_zoo(name: str, exported: Callable[[str], Path]) -> None:
    module, example = zoo.build(name)
    proto = _onnx.read(exported(name))
    x = {k: v.numpy() for k, v in example.items()}
    same(runner(module)(x), _onnx.session(proto).run(None, x))
    norms = sum(isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d) for m in module.modules())
    assert sum(n.op_type == "BatchNormalization" for n in proto.graph.node) == norms  # trainable: none folded away
    assert [i.name for i in proto.graph.input] == list(example)
    for item in proto.graph.input:
        axis = zoo.BATCH_AXES.get(name, {}).get(item.name, 0)
        assert item.type.tensor_type.shape.dim[axis].dim_param == "batch"


def plain(m: Any) -> Any:
    return m.state_dict()


def parallel(m: Any) -> Any:
    return {"state_dict": {f"module.{k}": v for k, v in m.state_dict().items()}, "epoch": 3, "best": 0.9}


def without_counters(m: Any) -> Any:
    return {"model": {k: v for k, v in m.state_dict().items() if "num_batches" not in k}}


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("wrap", [plain, parallel, without_counters])
def test_state_dicts(wrap: Any, legacy: bool, small: LoadOptions, tmp_path: Path) -> None:
    module = seeded()
    torch.save(wrap(module), tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    source = agrees(tmp_path / "w.pth", small, module, IMAGE)
    assert "state dict" in source.how
    assert source.reference_name == f"torch {torch.__version__}"


def write_safetensors(arrays: dict[str, Any], path: Path) -> None:
    header, body = {}, b""
    for name, (kind, array) in arrays.items():
        header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(body), len(body) + array.nbytes]}
        body += array.tobytes()
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + body)


def test_safetensors(small: LoadOptions, tmp_path: Path) -> None:
    module = seeded()
    arrays = {k: ("I64" if v.dtype == torch.int64 else "F32", v.numpy()) for k, v in module.state_dict().items()}
    write_safetensors(arrays, tmp_path / "w.safetensors")
    agrees(tmp_path / "w.safetensors", small, module, IMAGE)
    data = (tmp_path / "w.safetensors").read_bytes()
    for damaged in (data[:-8], data.replace(b"F32", b"F33"), struct.pack("<Q", 1 << 40) + data[8:]):
        (tmp_path / "w.safetensors").write_bytes(damaged)
        with pytest.raises(ModelError, match=r"sound \.safetensors"):
            from_torch.source(tmp_path / "w.safetensors", small)


def test_bfloat16_safetensors(tmp_path: Path) -> None:
    values = torch.randn(3, 5).to(torch.bfloat16)
    write_safetensors({"w": ("BF16", values.view(torch.uint16).numpy())}, tmp_path / "w.safetensors")
    found = from_torch.read_safetensors(tmp_path / "w.safetensors")["w"]
    np.testing.assert_array_equal(found, values.float().numpy())


def test_safetensors_that_share_their_data_are_refused(tmp_path: Path) -> None:
    header = {f"w{i}": {"dtype": "U8", "shape": [64], "data_offsets": [0, 64]} for i in range(2)}
    text = json.dumps(header).encode()
    (tmp_path / "w.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + bytes(64))
    with pytest.raises(ModelError, match="share"):
        read_safetensors(tmp_path / "w.safetensors")


def test_torchscript_whose_forward_calls_itself_otherwise(tmp_path: Path) -> None:
    """What `self` is called is the author's choice."""

    class Odd(nn.Module):
        def forward(this, x):  # type: ignore[no-untyped-def]
            return x * 2

    torch.jit.script(Odd()).save(tmp_path / "m.pt")
    source = from_torch.source(tmp_path / "m.pt", LoadOptions(inputs={"": "1x8"}))
    assert [i.name for i in source.proto.graph.input] == ["x"]


def test_all_that_does_not_fit_is_named_at_once(small: LoadOptions, tmp_path: Path) -> None:
    weights = seeded().state_dict()
    weights["extra.weight"] = weights.pop("fc.bias")
    del weights["norm.running_var"]
    weights["conv.weight"] = torch.zeros(4, 3, 5, 5)
    torch.save(weights, tmp_path / "w.pth")
    with pytest.raises(ModelError) as caught:
        from_torch.source(tmp_path / "w.pth", small)
    for word in (
        "missing: fc.bias, norm.running_var",
        "unexpected: extra.weight",
        "conv.weight is 4x3x5x5 and should be 4x3x3x3",
    ):
        assert word in caught.value.message


class Bomb:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_pickle_is_not_run(legacy: bool, small: LoadOptions, tmp_path: Path) -> None:
    content = {**seeded().state_dict(), "boom": Bomb(tmp_path / "ran")}
    torch.save(content, tmp_path / "w.pth", _use_new_zipfile_serialization=not legacy)
    with pytest.raises(UnsafeModelError, match="runs code") as caught:
        from_torch.source(tmp_path / "w.pth", small)
    assert "mkdir" in caught.value.message
    assert "--allow-unsafe" in caught.value.next
    assert not (tmp_path / "ran").exists()
    torch.load(tmp_path / "w.pth", weights_only=False)  # it is a real one
    assert (tmp_path / "ran").exists()


def test_a_bare_malicious_pickle_is_not_run(small: LoadOptions, tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(pickle.dumps(Bomb(tmp_path / "ran"), protocol=2))
    with pytest.raises(ModelError):
        from_torch.source(tmp_path / "w.pth", small)
    assert not (tmp_path / "ran").exists()


def test_a_pickled_module_only_when_allowed(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten()).eval()
    torch.save(module, tmp_path / "m.pt")
    options = LoadOptions(inputs={"": "1x3x8x8"})
    with pytest.raises(UnsafeModelError, match=r"torch\.nn\.modules\.container\.Sequential"):
        from_torch.source(tmp_path / "m.pt", options)
    allowed = LoadOptions(inputs={"": "1x3x8x8"}, allow_unsafe=True)
    assert "pickled module" in from_torch.source(tmp_path / "m.pt", allowed).how


def test_torchscript_traced(tmp_path: Path) -> None:
    module = seeded()
    torch.jit.save(torch.jit.trace(module, torch.randn(1, 3, 8, 8)), tmp_path / "m.pt")
    source = agrees(tmp_path / "m.pt", LoadOptions(inputs={"x": "?x3x8x8"}), module, IMAGE)
    assert "TorchScript" in source.how
    with pytest.raises(UsageError) as caught:
        from_torch.source(tmp_path / "m.pt", LoadOptions())
    assert "--input x=1x3x224x224" in caught.value.next


def test_torchscript_scripted(tmp_path: Path) -> None:
    module = seeded(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Hardswish(), nn.Flatten()))
    torch.jit.save(torch.jit.script(module), tmp_path / "m.pt")
    options = LoadOptions(inputs={"": "1x3x8x8"})
    agrees(tmp_path / "m.pt", options, module, {"input": IMAGE["x"]})


class Writes(nn.Module):
    def forward(self, x):  # type: ignore[no-untyped-def]
        torch.save(x, "written.bin")
        return x


class Maps(nn.Module):
    def forward(self, x):  # type: ignore[no-untyped-def]
        return x + torch.from_file("written.bin", shared=True, size=16, dtype=torch.uint8).fill_(65).sum()


@pytest.mark.parametrize("kind", [Writes, Maps])
def test_torchscript_that_touches_files_is_not_run(kind: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(kind()).save("m.pt")
    with pytest.raises(UnsafeModelError, match=r"save|from_file"):
        from_torch.source(Path("m.pt"), LoadOptions(inputs={"x": "1x8"}))
    assert not (tmp_path / "written.bin").exists()


def test_damaged_torchscript_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "m.pt"
    torch.jit.script(nn.Linear(8, 4)).save(path)
    data = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        packed = [i.header_offset for i in file.infolist() if i.compress_type]
    for place in packed:  # the beginning of what is compressed
        broken = bytearray(data)
        broken[place + 120 : place + 200] = bytes(b ^ 0x5A for b in data[place + 120 : place + 200])
        path.write_bytes(broken)
        with contextlib.suppress(ModelError):
            from_torch.source(path, LoadOptions(inputs={"": "1x8"}))


def test_torchscript_is_looked_through_in_any_spelling() -> None:
    path = Path("m.pt")
    for code in (
        "torch.save(x)",
        "torch .\\\n from_file(f)",
        "x.save(f)",
        "(ops # a\n . c10d.send(x))",
        "ops.prim.rpc_sync(f)",
    ):
        with pytest.raises(UnsafeModelError):
            _check_script(path, code)
    _check_script(path, "saved = self.save_all; ops.quantized.linear(x); torch.relu(devops.x)")


def save_program(module: Any, x: Any, path: Path, shapes: Any = None) -> None:
    torch.export.save(torch.export.export(module, x, dynamic_shapes=shapes), path)


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "m.pt2"
    save_program(seeded(), (torch.randn(2, 3, 8, 8),), path, ({0: torch.export.Dim("b")},))
    return path


def test_an_exported_program_says_its_shapes(program: Path) -> None:
    source = agrees(program, LoadOptions(), seeded(), IMAGE)
    assert "torch.export" in source.how
    assert "BatchNormalization" in [n.op_type for n in source.proto.graph.node]
    with pytest.raises(UsageError, match="no input 'y'"):
        from_torch.source(program, LoadOptions(inputs={"y": "1x3x8x8"}))


def test_an_exported_program_that_computes_with_the_batch(tmp_path: Path) -> None:
    """The first exporter bakes the batch in; the second, tried next, does not."""
    pytest.importorskip("onnxscript")

    class Views(Small):
        def forward(self, x: Any) -> Any:
            y = torch.relu(self.norm(self.conv(x)))
            return self.fc(y.view(x.shape[0], 4, -1).mean(2))

    module = seeded(Views())
    save_program(module, (torch.randn(2, 3, 8, 8),), tmp_path / "m.pt2", ({0: torch.export.Dim("b")},))
    source = agrees(tmp_path / "m.pt2", LoadOptions(), module, IMAGE)
    assert "BatchNormalization" in [n.op_type for n in source.proto.graph.node]
    assert not source.notes


def test_other_open_sizes_have_to_be_given(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Conv1d(2, 3, 3), nn.ReLU()).eval()
    shapes = {"input": {0: torch.export.Dim("b"), 2: torch.export.Dim("n", min=8)}}
    save_program(module, (torch.randn(2, 2, 16),), tmp_path / "m.pt2", shapes)
    with pytest.raises(UsageError, match="open") as caught:
        from_torch.source(tmp_path / "m.pt2", LoadOptions())
    assert "--input input=1x2x128" in caught.value.next
    source = from_torch.source(tmp_path / "m.pt2", LoadOptions(inputs={"": "1x2x20"}))
    assert [d.dim_param or d.dim_value for d in source.proto.graph.input[0].type.tensor_type.shape.dim] == [
        "batch",
        2,
        20,
    ]


def doctored(
    program: Path, out: Path, change: Callable[[dict[str, Any]], None], member: str = "models/model.json"
) -> Path:
    """A copy of a .pt2 with one of its JSON members changed."""
    with zipfile.ZipFile(program) as file, zipfile.ZipFile(out, "w") as copy:
        for info in file.infolist():
            data = file.read(info)
            if info.filename.endswith(member):
                content = json.loads(data)
                change(content)
                data = json.dumps(content).encode()
            copy.writestr(info.filename, data)
    return out


def _call(content: dict[str, Any], target: str) -> None:
    content["graph_module"]["graph"]["nodes"][0]["target"] = target


@pytest.mark.parametrize(
    "target",
    [
        "torch.serialization.os.system",
        "torch.ops.load_library",
        "_operator.attrgetter",
        "#evil",
        "torch.hub.load",
        "torch.ops.aten.from_file.default",
        "torch.ops.aten.from_file",
        "torch.ops.aten.save.default",
    ],
)
def test_a_program_that_calls_anything_else_is_refused(target: str, program: Path, tmp_path: Path) -> None:
    path = doctored(program, tmp_path / "m.pt2", lambda c: _call(c, target))
    with pytest.raises(UnsafeModelError) as caught:
        from_torch.source(path, LoadOptions())
    assert target in caught.value.message


def test_a_function_among_the_arguments_is_refused(program: Path, tmp_path: Path) -> None:
    def change(content: dict[str, Any]) -> None:
        inputs = content["graph_module"]["graph"]["nodes"][0]["inputs"]
        inputs.append({"name": "f", "arg": {"as_operator": "torch.serialization.os.system"}, "kind": 1})

    with pytest.raises(UnsafeModelError, match=r"os\.system"):
        from_torch.source(doctored(program, tmp_path / "m.pt2", change), LoadOptions())


def test_guards_of_a_program_are_not_run(program: Path, tmp_path: Path) -> None:
    guard = f"__import__('os').mkdir({str(tmp_path / 'ran')!r}) or True"
    path = doctored(program, tmp_path / "m.pt2", lambda c: c.update(guards_code=[guard]))
    from_torch.source(path, LoadOptions())
    assert not (tmp_path / "ran").exists()


def test_pickles_in_a_program_are_refused(program: Path, tmp_path: Path) -> None:
    def use(content: dict[str, Any]) -> None:
        next(iter(content["config"].values()))["use_pickle"] = True

    path = doctored(program, tmp_path / "m.pt2", use, "model_weights_config.json")
    with pytest.raises(UnsafeModelError, match="pickled object"):
        from_torch.source(path, LoadOptions())
    buffer = io.BytesIO()
    torch.save((Bomb(tmp_path / "ran"),), buffer)
    with zipfile.ZipFile(program) as file, zipfile.ZipFile(tmp_path / "n.pt2", "w") as copy:
        for name in file.namelist():
            copy.writestr(name, buffer.getvalue() if "sample_inputs" in name else file.read(name))
    with pytest.raises(UnsafeModelError, match="sample_inputs"):
        from_torch.source(tmp_path / "n.pt2", LoadOptions())
    assert not (tmp_path / "ran").exists()


def test_sizes_of_a_program_are_arithmetic() -> None:
    assert _is_size("Mul(Integer(16), Symbol('s12', positive=True, integer=True))")
    for text in ("__import__('os').system('x')", "s0.__class__", "9**9**9", "exec('1')", "[c for c in s0]", 3):
        assert not _is_size(text)


def test_damage_is_one_sentence(program: Path, small: LoadOptions, tmp_path: Path) -> None:
    torch.save(seeded().state_dict(), tmp_path / "w.pth")
    torch.jit.save(torch.jit.trace(seeded(), torch.randn(1, 3, 8, 8)), tmp_path / "s.pt")
    for path in (program, tmp_path / "w.pth", tmp_path / "s.pt"):
        data = path.read_bytes()
        for cut in (data[: len(data) // 2], data[:50], data[:4] + bytes(60) + data[64:-200]):
            broken = tmp_path / f"broken{path.suffix}"
            broken.write_bytes(cut)
            with pytest.raises(ModelError) as caught:
                from_torch.source(broken, small)
            assert len(caught.value.message) < 500


def test_what_is_missing_is_named(small: LoadOptions, tmp_path: Path) -> None:
    torch.save(seeded().state_dict(), tmp_path / "w.pth")
    with pytest.raises(UsageError) as caught:
        from_torch.source(tmp_path / "w.pth", LoadOptions())
    assert "--module" in caught.value.next
    with pytest.raises(UsageError) as caught:
        from_torch.source(tmp_path / "w.pth", LoadOptions(module=small.module))
    assert "--input x=1x3x224x224" in caught.value.next
    with pytest.raises(UsageError, match="no input 'y'"):
        from_torch.source(tmp_path / "w.pth", LoadOptions(module=small.module, inputs={"y": "1x3"}))
    with pytest.raises(ModelError, match="fails on inputs of the given shapes"):
        from_torch.source(tmp_path / "w.pth", LoadOptions(module=small.module, inputs={"x": "1x4x8x8"}))
    with pytest.raises(ModelError, match="no_such_module"):
        from_torch.source(tmp_path / "w.pth", LoadOptions(module="no_such_module:build", inputs={"x": "1x3x8x8"}))
    torch.save({"a": 1}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="holds no state dict"):
        from_torch.source(tmp_path / "w.pth", small)


def test_the_module_may_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "my_net.py").write_text("from torch import nn\n\ndef build():\n    return nn.Linear(3, 2)\n")
    torch.save(nn.Linear(3, 2).state_dict(), tmp_path / "w.pth")
    options = LoadOptions(module=f"{tmp_path / 'my_net.py'}:build", inputs={"": "1x3"})
    assert from_torch.source(tmp_path / "w.pth", options).proto.graph.node[0].op_type == "Gemm"


def build_with(forward: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, path: Path) -> LoadOptions:
    """A state dict in `path` and options for a module that computes `forward(linear, x)`."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Any) -> Any:
            return forward(self.fc, x)

    monkeypatch.setitem(sys.modules, "odd_net", ModuleType("odd_net"))
    sys.modules["odd_net"].build = Net
    torch.save(Net().state_dict(), path)
    return LoadOptions(module="odd_net:build", inputs={"x": "1x4"})


def test_every_unknown_operator_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = build_with(lambda fc, x: torch.special.i0e(fc(x)) + torch.lgamma(x), monkeypatch, tmp_path / "w.pth")
    with pytest.raises(ModelError) as caught:
        from_torch.source(tmp_path / "w.pth", options)
    for word in ("aten::lgamma", "aten::special_i0e"):
        assert word in caught.value.message


def test_a_module_that_needs_one_batch_gets_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    options = build_with(lambda fc, x: fc(x.view(1, 2, 2).flatten(1)), monkeypatch, tmp_path / "w.pth")
    source = from_torch.source(tmp_path / "w.pth", options)
    assert source.proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 1
    assert "batch is fixed at 1" in source.notes[0]


def test_shapes_of_inputs() -> None:
    assert parse("x", "1x3x8x8") == Input("x", (1, 3, 8, 8), "float32", 0)
    assert parse("x", "4x3") == Input("x", (4, 3), "float32", None)
    assert [i.batch for i in read_inputs({"x": "?x3", "h": "1x?x4"}, ("x", "h"), 0, "m")] == [0, 1]
    assert [i.batch for i in read_inputs({"x": "?x3", "h": "1x1x4"}, ("x", "h"), 0, "m")] == [0, None]
    for bad in ("", "x", "1xx3", "-1x3", "1x3:float31", "?x?", "1x99999999x99999999", "1x" * 9 + "1", "0x3"):
        with pytest.raises(UsageError):
            parse("x", bad)


@pytest.mark.parametrize("name", ["mobilenet_v3", "speech_stateful"])
def test_the_keras_model_is_held_to_torch(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("keras", reason="needs pip install 'edgedl[compress]'")
    monkeypatch.setitem(sys.modules, "zoo_net", ModuleType("zoo_net"))
    sys.modules["zoo_net"].build = lambda: zoo.build(name)[0]
    torch.save(zoo.build(name)[0].state_dict(), tmp_path / "w.pth")
    model = from_torch.load_torch(tmp_path / "w.pth", LoadOptions(module="zoo_net:build", inputs=zoo.shapes(name)))
    entries = [e for e in model.proof if "torch" in e["against"]]
    assert entries
    assert max(e["max_relative"] for e in entries) < 1e-4
