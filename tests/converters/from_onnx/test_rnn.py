"""ONNX's recurrent operators in Keras, held to ONNX Runtime and to PyTorch (of the largest value: 2e-5)."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("keras")

from edgedl.converters import _onnx  # noqa: E402
from edgedl.converters.from_onnx import proof  # noqa: E402
from edgedl.converters.from_onnx.build import build  # noqa: E402
from edgedl.converters.from_onnx.graph import prepared  # noqa: E402
from edgedl.errors import ModelError  # noqa: E402
from edgedl.model import LoadOptions  # noqa: E402

H = onnx.helper
F32 = onnx.TensorProto.FLOAT
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}
TOLERANCE = 2e-5
SLOW = settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))


def recurrent(kind: str, *, direction: str = "forward", layout: int = 0, steps: int = 5, batch: Any = "N", inputs: int = 3,
              units: int = 4, bias: bool = True, states: str = "", outputs: tuple[int, ...] = (0,), lens: Any = None,
              peepholes: bool = False, seed: int = 0, then: Any = (), **attributes: Any) -> Any:  # fmt: skip
    """A model of one recurrent node; `states`: "" none, "computed" inputs of the graph; `then`: nodes that follow."""
    rng = np.random.default_rng(seed)
    ways, gates = 1 + (direction == "bidirectional"), GATES[kind]
    shape = [batch, steps, inputs] if layout else [steps, batch, inputs]
    given = [H.make_tensor_value_info("x", F32, shape)]
    weights = {
        "w": rng.normal(0, 0.5, (ways, gates * units, inputs)),
        "r": rng.normal(0, 0.5, (ways, gates * units, units)),
    }
    names = ["x", "w", "r", "", "", "", "", ""]
    if bias:
        weights["b"], names[3] = rng.normal(0, 0.5, (ways, 2 * gates * units)), "b"
    for i in range(1 + (kind == "LSTM")) if states else ():
        names[5 + i] = f"s{i}"
        size = [batch, ways, units] if layout else [ways, batch, units]
        given.append(H.make_tensor_value_info(f"s{i}", F32, size))
    if peepholes:
        weights["p"], names[7] = rng.normal(0, 0.5, (ways, 3 * units)), "p"
    initializers = [onnx.numpy_helper.from_array(v.astype(np.float32), k) for k, v in weights.items()]
    if lens is not None:
        names[4] = "lens"
        initializers.append(onnx.numpy_helper.from_array(np.asarray(lens, np.int32), "lens"))
    while not names[-1]:
        names.pop()
    made = [f"y{i}" if i in outputs else "" for i in range(3 if kind == "LSTM" else 2)]
    node = H.make_node(
        kind, names, made, name="cell", hidden_size=units, direction=direction, layout=layout, **attributes
    )
    last = [then[-1].output[0]] if then else [n for n in made if n]
    results = [H.make_tensor_value_info(n, F32, None) for n in last]
    graph = H.make_graph([node, *then], "g", given, results, initializers)
    return H.make_model(graph, opset_imports=[H.make_opsetid("", 14)], ir_version=8)


def keras_outputs(model: Any, feed: dict[str, Any], freed: bool = False) -> tuple[Any, dict[str, Any]]:
    imported = build(prepared(model, LoadOptions(form="keras"), "test"), freed=freed, name="model")
    found = imported.net([feed[i.name] for i in imported.inputs], training=False)
    tensors = found if isinstance(found, list | tuple) else [found]
    return imported, {
        s.name: proof._back(np.asarray(t), imported.layouts.get(s.name))
        for s, t in zip(imported.outputs, tensors, strict=True)
    }


def reference(model: Any, feed: dict[str, Any]) -> dict[str, Any]:
    """What ONNX Runtime computes."""
    session = _onnx.session(model, optimize=False)
    return dict(zip([o.name for o in session.get_outputs()], session.run(None, feed), strict=True))


def check(model: Any, feed: dict[str, Any], wanted: dict[str, Any], tolerance: float = TOLERANCE) -> Any:
    imported, found = keras_outputs(model, feed)
    for name, array in wanted.items():
        assert proof.difference(found[name], array)[0] <= tolerance, name
    return imported


def layers(imported: Any, kind: str) -> list[Any]:
    return [layer for layer in imported.net.layers if type(layer).__name__ == kind]


def feeds(model: Any, batch: int = 2, seed: int = 1) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    shapes = {i.name: [d.dim_value or batch for d in i.type.tensor_type.shape.dim] for i in model.graph.input}
    return {k: rng.normal(size=s).astype(np.float32) for k, s in shapes.items()}


def swapped(a: Any, layout: int, sequence: bool = False) -> Any:
    """An array of layout 1 as layout 0 has it; `sequence`: Y, whose steps come second."""
    if not layout:
        return a
    return a.transpose(1, 2, 0, 3) if sequence else a.swapaxes(0, 1)


@SLOW
@given(
    kind=st.sampled_from(sorted(GATES)), direction=st.sampled_from(["forward", "reverse", "bidirectional"]),
    layout=st.integers(0, 1), steps=st.integers(1, 4), units=st.integers(1, 5), bias=st.booleans(),
    states=st.sampled_from(["", "computed"]), outputs=st.sets(st.integers(0, 2), min_size=1), reset=st.integers(0, 1),
)  # fmt: skip
def test_every_form_agrees_with_onnxruntime(
    kind: str,
    direction: str,
    layout: int,
    steps: int,
    units: int,
    bias: bool,
    states: str,
    outputs: set[int],
    reset: int,
) -> None:
    used = tuple(i for i in outputs if i < 2 or kind == "LSTM") or (0,)
    extra = {"linear_before_reset": reset} if kind == "GRU" else {}
    options: dict[str, Any] = {
        "direction": direction, "steps": steps, "units": units, "bias": bias, "states": states, "outputs": used,
        "batch": 2, **extra,
    }  # fmt: skip
    plain, model = recurrent(kind, **options), recurrent(kind, layout=layout, **options)
    feed = feeds(model)
    wanted = reference(plain, {k: swapped(v, layout) for k, v in feed.items()})  # ORT has layout 0 only
    imported, found = keras_outputs(model, feed)
    for name, array in wanted.items():
        assert proof.difference(swapped(found[name], layout, name == "y0"), array)[0] <= TOLERANCE, name
    layer = {"RNN": "SimpleRNN"}.get(kind, kind) if direction != "bidirectional" else "Bidirectional"
    assert [x.name for x in layers(imported, layer)] == ["cell"]


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("LSTM", {"activations": ["HardSigmoid", "Tanh", "Tanh"]}),
        ("LSTM", {"activations": ["Sigmoid", "Relu", "Softsign"], "peepholes": True}),
        ("GRU", {"activations": ["HardSigmoid", "Tanh"], "activation_alpha": [0.3], "activation_beta": [0.4]}),
        ("GRU", {"activations": ["HardSigmoid", "LeakyRelu"], "linear_before_reset": 1}),
        ("RNN", {"activations": ["ScaledTanh"], "activation_alpha": [0.7], "activation_beta": [0.9]}),
    ],
)
def test_cells_that_keras_has_not_are_written_out(kind: str, attributes: dict[str, Any], direction: str) -> None:
    attributes = dict(attributes)
    attributes["activations"] = attributes["activations"] * (1 + (direction == "bidirectional"))
    for key in ("activation_alpha", "activation_beta"):
        if key in attributes:
            attributes[key] = attributes[key] * (1 + (direction == "bidirectional"))
    model = recurrent(kind, direction=direction, outputs=(0, 1), batch=2, steps=3, states="computed", **attributes)
    feed = feeds(model)
    imported = check(model, feed, reference(model, feed))
    assert not layers(imported, "LSTM")
    assert not layers(imported, "Bidirectional")


def test_an_activation_that_keras_has_stays_a_layer() -> None:
    model = recurrent("LSTM", batch=2, activations=["HardSigmoid", "Relu", "Relu"], activation_alpha=[1 / 6])
    feed = feeds(model)
    imported = check(model, feed, reference(model, feed))
    assert layers(imported, "LSTM")[0].recurrent_activation.__name__ == "hard_sigmoid"


@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("kind", sorted(GATES))
def test_sequences_of_several_lengths(kind: str, direction: str) -> None:
    model = recurrent(kind, direction=direction, batch=3, lens=[2, 5, 3], outputs=(0, 1))
    feed = feeds(model)
    check(model, feed, reference(model, feed))


def test_lengths_that_are_all_the_input_s_need_no_mask() -> None:
    model = recurrent("LSTM", batch=2, lens=[5, 5])
    imported = check(model, feeds(model), reference(model, feeds(model)))
    assert [type(x).__name__ for x in imported.net.layers if "Input" not in type(x).__name__][-1] == "LSTM"


@pytest.mark.parametrize("value", [0.0, 0.5])
def test_constant_states_go_with_a_free_batch(value: float) -> None:
    model = recurrent("LSTM", batch=1, steps=4, states="computed")
    for name in ("s0", "s1"):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.full((1, 1, 4), value, np.float32), name))
    kept = [H.make_tensor_value_info("t", F32, [1, 4, 3])]
    nodes = [H.make_node("Transpose", ["t"], ["x"], perm=[1, 0, 2]), *model.graph.node,
             H.make_node("Squeeze", ["y0", "one"], ["s"]), H.make_node("Transpose", ["s"], ["o"], perm=[1, 0, 2])]  # fmt: skip
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([1], np.int64), "one"))
    graph = H.make_graph(
        nodes, "g", kept, [H.make_tensor_value_info("o", F32, [1, 4, 4])], list(model.graph.initializer)
    )
    whole = H.make_model(graph, opset_imports=[H.make_opsetid("", 14)], ir_version=8)
    feed = {"t": np.random.default_rng(0).normal(size=(3, 4, 3)).astype(np.float32)}
    imported, found = keras_outputs(whole, feed, freed=True)
    wanted = np.concatenate([reference(whole, {"t": feed["t"][i : i + 1]})["o"] for i in range(3)])
    assert proof.difference(found["o"], wanted)[0] <= TOLERANCE
    assert imported.net.inputs[0].shape == (None, 4, 3)
    assert not [x for x in imported.net.operations if type(x).__name__ in ("Transpose", "Reshape")]


def test_what_follows_a_bidirectional_layer_costs_nothing() -> None:
    """PyTorch's and Keras's exports join both directions by a Transpose and a Reshape."""
    then = [H.make_node("Transpose", ["y0"], ["t"], perm=[0, 2, 1, 3]), H.make_node("Reshape", ["t", "shape"], ["o"])]
    model = recurrent("GRU", direction="bidirectional", batch=2, then=then, linear_before_reset=1)
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 0, -1], np.int64), "shape"))
    imported = check(model, feeds(model), reference(model, feeds(model)))
    assert [type(o).__name__ for o in imported.net.operations].count("Reshape") == 0


@pytest.mark.parametrize("kind", sorted(GATES))
def test_stacked_layers_of_pytorch(kind: str) -> None:
    """Two layers, both directions, batch first: weights straight from torch.nn, its forward pass as the oracle."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = getattr(torch.nn, kind)(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    state = {k: v.detach().numpy() for k, v in net.state_dict().items()}
    order = {"RNN": [0], "GRU": [1, 0, 2], "LSTM": [0, 3, 1, 2]}[kind]  # torch: LSTM ifgo, GRU rzn

    def gates(name: str) -> Any:
        return np.concatenate([np.split(state[name], len(order))[g] for g in order])

    initializers, nodes, at = [], [H.make_node("Transpose", ["x"], ["in0"], perm=[1, 0, 2])], "in0"
    for layer in range(2):
        ends = [f"_l{layer}", f"_l{layer}_reverse"]
        found = {
            "w": np.stack([gates(f"weight_ih{e}") for e in ends]),
            "r": np.stack([gates(f"weight_hh{e}") for e in ends]),
            "b": np.stack([np.concatenate([gates(f"bias_ih{e}"), gates(f"bias_hh{e}")]) for e in ends]),
        }
        initializers += [onnx.numpy_helper.from_array(v, f"{k}{layer}") for k, v in found.items()]
        extra = {"linear_before_reset": 1} if kind == "GRU" else {}
        extra |= {"activations": ["Tanh", "Tanh"]} if kind == "RNN" else {}
        nodes += [
            H.make_node(kind, [at, *(f"{k}{layer}" for k in "wrb")], [f"y{layer}"], direction="bidirectional", hidden_size=4, **extra),
            H.make_node("Transpose", [f"y{layer}"], [f"t{layer}"], perm=[0, 2, 1, 3]),
            H.make_node("Reshape", [f"t{layer}", "shape"], [f"in{layer + 1}"]),
        ]  # fmt: skip
        at = f"in{layer + 1}"
    nodes.append(H.make_node("Transpose", [at], ["o"], perm=[1, 0, 2]))
    initializers.append(onnx.numpy_helper.from_array(np.array([0, 0, -1], np.int64), "shape"))
    graph = H.make_graph(nodes, "g", [H.make_tensor_value_info("x", F32, ["N", 5, 3])],
                         [H.make_tensor_value_info("o", F32, ["N", 5, 8])], initializers)  # fmt: skip
    model = H.make_model(graph, opset_imports=[H.make_opsetid("", 14)], ir_version=8)
    x = np.random.default_rng(0).normal(size=(2, 5, 3)).astype(np.float32)
    with torch.no_grad():
        wanted = net(torch.from_numpy(x))[0].numpy()
    imported = check(model, {"x": x}, {"o": wanted})
    assert len(layers(imported, "Bidirectional")) == 2
    assert not [o for o in imported.net.operations if type(o).__name__ in ("Transpose", "Reshape")]


@pytest.mark.parametrize(
    ("attributes", "word"),
    [
        ({"clip": 1.0}, "clip"),
        ({"input_forget": 1}, "input_forget"),
        ({"activations": ["Sigmoid", "Sine", "Tanh"]}, "Sine"),
        ({"activations": ["Sigmoid"]}, "activations"),
        ({"peepholes": True, "steps": 300}, "300"),
    ],
)
def test_what_cannot_be_built_is_refused_by_name(attributes: dict[str, Any], word: str) -> None:
    with pytest.raises(ModelError, match=f"'cell'.*{word}"):
        keras_outputs(recurrent("LSTM", batch=2, **attributes), {})


def test_weights_of_another_size_are_refused() -> None:
    model = recurrent("LSTM", batch=2)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 7
    with pytest.raises(ModelError, match="7 features"):
        keras_outputs(model, {})
