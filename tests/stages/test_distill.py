"""The distill stage: what it makes of a network, what it tells, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from edgedl.artifact import TensorSpec
from edgedl.data import Dataset, Split
from edgedl.errors import DataError, EdgedlError, ModelError, RecipeError, UsageError
from edgedl.frameworks import keras
from edgedl.model import Model, QuantizationPlan
from edgedl.options import build
from edgedl.stages.distill import NOTE_GENERATED, Distill
from edgedl.stages.distilling import students
from edgedl.stages.rebuilding import clone, weighted

Zoo = Callable[[str], tuple[Any, Any, Any]]
FEW = np.arange(192)


@pytest.fixture(scope="module")
def case(zoo: Zoo) -> tuple[Model, Dataset]:
    """The small CNN of the zoo, trained, and its data with labels."""
    net, x, y = zoo("cnn")
    split = Split({"image": x}, y)
    data = Dataset(split.take(FEW[:64]), split.take(FEW + 300), split.take(FEW), metric="accuracy")
    return Model(
        net, (TensorSpec("image", (None, 16, 16, 3), "float32"),), (TensorSpec("p", (None, 5), "float32"),)
    ), data


def unlabelled(data: Dataset) -> Dataset:
    splits = {name: Split(getattr(data, name).x) for name in ("calibration", "validation", "train")}
    return replace(data, **splits, metric="agreement")


def damaged(model: Model, noise: float = 0.3) -> Model:
    """The model after a stage that did it harm."""
    net, rng = clone(model.net), np.random.default_rng(0)
    for layer in weighted(net).values():
        layer.set_weights([w + noise * w.std() * rng.normal(size=w.shape) for w in layer.get_weights()])
    return model.changed("damaged", net)


def gap(net: Any, other: Any, x: np.ndarray) -> float:
    """Mean absolute difference of class scores."""
    return float(np.abs(np.asarray(net(x)) - np.asarray(other(x))).mean())


# --- what it does


def test_recovers_the_original_without_labels(case: tuple[Model, Dataset]) -> None:
    model, data = case[0], unlabelled(case[1])
    hurt = damaged(model, 1.0)
    after = Distill(epochs=6, batch_size=32)(hurt, data)
    x = data.validation.x["image"]
    assert gap(after.net, model.net, x) < 0.5 * gap(hurt.net, model.net, x)
    record = after.records[-1]
    assert record["teachers"] == ["the original network"]
    assert record["weights"]["label"] == 0
    assert set(record["parts"]) == {"logits", "features"}
    assert len(record["parts"]["logits"]) == 6
    assert record["parts"]["logits"][-1] < 0.5 * record["parts"]["logits"][0]
    assert after.history[-1] == "distilled from the original network for 6 epochs"
    assert after.origin is model.net
    assert after.inputs == model.inputs
    assert after.outputs == model.outputs


def test_every_part_falls_and_is_told(case: tuple[Model, Dataset]) -> None:
    model, data = case
    options = Distill(
        epochs=6, batch_size=16, features=1, attention=5, relational=1, width=0.5, inherit=False, learning_rate=1e-2
    )
    record = options(model, data).records[-1]
    assert set(record["parts"]) == {"label", "logits", "features", "attention", "relational"}
    for name, values in record["parts"].items():
        assert len(values) == 6
        assert values[-1] < values[0], name
    assert record["weights"]["label"] == pytest.approx(0.1)
    assert record["weights"]["logits"] == pytest.approx(0.9)
    assert [entry["student"] for entry in record["layers"]] == [
        "conv2d [14, 14, 4]",
        "conv2d_1 [7, 7, 8]",
        "dense [12]",
    ]
    assert all(entry["projected"] for entry in record["layers"])
    total = sum(record["weights"][name] * record["parts"][name][0] for name in record["parts"])
    assert total == pytest.approx(record["epochs"][0]["loss"], rel=0.01)  # means of batches of one size


def test_the_teacher_and_the_model_stay_as_they_are(case: tuple[Model, Dataset]) -> None:
    model, data = case
    before = [w.copy() for w in model.net.get_weights()]
    Distill(epochs=1, features=1, width=0.5)(model, data)
    for was, now in zip(before, model.net.get_weights(), strict=True):
        np.testing.assert_array_equal(was, now)


def test_hints_come_first(case: tuple[Model, Dataset]) -> None:
    model, data = case
    record = Distill(
        epochs=4, hint_epochs=2, features=1, width=0.5, inherit=False, batch_size=32, label_weight=0, learning_rate=1e-2
    )(model, data).records[-1]
    logits, loss = record["parts"]["logits"], [e["loss"] for e in record["epochs"]]
    assert loss[:2] == pytest.approx(record["parts"]["features"][:2], rel=0.01)
    assert loss[2] == pytest.approx(record["parts"]["features"][2] + logits[2], rel=0.01)


def test_a_student_of_the_users_takes_the_place(case: tuple[Model, Dataset], tmp_path: Path) -> None:
    model, data = case
    L = keras().layers
    image = keras().Input((16, 16, 3), name="pixels")
    x = L.GlobalAveragePooling2D(name="pool")(L.Conv2D(6, 3, 2, activation="relu", name="own")(image))
    keras().Model(image, L.Dense(5)(x)).save(tmp_path / "student.keras")
    planned = replace(model, plan=QuantizationPlan(ranges={"conv2d": (0.0, 1.0)}))
    after = Distill(
        epochs=4, batch_size=32, student=str(tmp_path / "student.keras"), label_weight=0, learning_rate=1e-2
    )(planned, data)
    assert after.net.count_params() == 6 * 28 + 7 * 5
    assert (after.inputs, after.outputs) == (model.inputs, model.outputs)
    assert after.plan is not None
    assert after.plan.ranges == {}, "they were those of other layers"
    assert after.records[-1]["outputs"] == {"p": "classes"}, "the student's logits against the teacher's softmax"
    assert after.records[-1]["parts"]["logits"][-1] < after.records[-1]["parts"]["logits"][0]


def test_an_ensemble_is_the_mean_of_its_teachers(case: tuple[Model, Dataset], tmp_path: Path) -> None:
    model, data = case[0], unlabelled(case[1])
    paths = []
    for i, scale in enumerate((0.0, 1.0)):
        net = clone(model.net)
        last = net.layers[-1]
        last.set_weights([w * scale for w in last.get_weights()])  # the first knows nothing: 1/5 for each class
        paths.append(str(tmp_path / f"teacher{i}.keras"))
        net.save(paths[-1])
    after = Distill(epochs=12, teacher=tuple(paths), temperature=1, batch_size=32, learning_rate=3e-3)(model, data)
    assert after.records[-1]["teachers"] == ["teacher0.keras", "teacher1.keras"]
    x = data.train.x["image"] if data.train else None
    wanted = (np.asarray(model.net(x)) + 0.2) / 2
    before, now = (np.abs(np.asarray(net(x)) - wanted).mean() for net in (model.net, after.net))
    assert now < 0.5 * before, "either teacher alone is as far from the mean as the model was"


def test_a_teacher_of_another_format(case: tuple[Model, Dataset], tmp_path: Path) -> None:
    model, data = case[0], unlabelled(case[1])
    path = tmp_path / "teacher"
    model.net.export(path, verbose=False)
    record = Distill(epochs=1, teacher=(str(path),), features=1)(damaged(model), data).records[-1]
    assert record["teachers"] == ["teacher"]
    assert record["layers"], "matched by size and place, as names are others"


def test_the_same_seed_gives_the_same_network(case: tuple[Model, Dataset]) -> None:
    model, data = case
    options = Distill(epochs=1, width=0.5, inherit=False, seed=7)
    first, second = (options(model, data).net.get_weights() for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)  # sums of threads


def test_generated_inputs_are_told(case: tuple[Model, Dataset]) -> None:
    model, data = case[0], replace(unlabelled(case[1]), generated=True)
    after = Distill(epochs=1)(Distill(epochs=1)(model, data), data)
    assert after.notes.count(NOTE_GENERATED) == 1


# --- what it refuses


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"temperature": 0.0}, "temperature is 0, but must be above 0"),
        ({"temperature": -1.0}, "temperature is -1, but must be above 0"),
        ({"label_weight": 1.5}, "label_weight is 1.5, but must be in 0..1"),
        ({"features": -1.0}, "features is -1, but must be at least 0"),
        ({"hint_epochs": 3, "epochs": 3}, "nothing but features would ever count"),
        ({"width": 0.0}, "width is 0, but must be above 0 and at most 1"),
        ({"depth": 1.5}, "depth is 1.5, but must be above 0 and at most 1"),
        ({"epochs": -1}, "epochs is -1"),
        ({"temperature": float("nan")}, "must be a finite number"),
        ({"temprature": 2.0}, "did you mean 'temperature'"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], said: str) -> None:
    with pytest.raises((UsageError, RecipeError), match=said):
        build(Distill, options, "distill")


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"teacher": ("no/such.keras",)}, UsageError, "there is no teacher at no/such.keras"),
        ({"student": "no/such.keras"}, UsageError, "there is no student at no/such.keras"),
        ({"layers": ("block*",)}, UsageError, r"no layer of the model matches 'block\*'"),
        ({"logits": 0.0, "label_weight": 0.0, "features": 0.0}, UsageError, "all weights of the loss are 0"),
        ({"hint_epochs": 1, "features": 0.0}, UsageError, "hint_epochs is about features"),
        ({"depth": 0.5}, UsageError, "no residual block"),
    ],
)
def test_what_cannot_be_found(
    case: tuple[Model, Dataset], options: dict[str, Any], kind: type[EdgedlError], said: str
) -> None:
    with pytest.raises(kind, match=said):
        Distill(**{"epochs": 2, **options})(*case)


def test_labels_that_are_asked_for_and_not_there(case: tuple[Model, Dataset]) -> None:
    with pytest.raises(DataError, match=r"label_weight is 0.5, and the data has no labels"):
        Distill(epochs=1, label_weight=0.5)(case[0], unlabelled(case[1]))
    assert Distill(epochs=1, label_weight=0.0)(case[0], unlabelled(case[1])).records


def test_a_teacher_with_other_outputs(case: tuple[Model, Dataset], tmp_path: Path) -> None:
    L = keras().layers
    image = keras().Input((16, 16, 3), name="image")
    path = tmp_path / "ten.keras"
    keras().Model(image, L.Dense(10, name="ten")(L.Flatten()(image))).save(path)
    with pytest.raises(UsageError, match=r"the teacher ten.keras gives 'ten' \[10\], and the model gives 'p' \[5\]"):
        Distill(epochs=1, teacher=(str(path),))(*case)
    image = keras().Input((8, 8, 3), name="image")
    keras().Model(image, L.Dense(5, name="p")(L.Flatten()(image))).save(path)
    with pytest.raises(UsageError, match=r"takes 'image' \[8, 8, 3\], and the model takes 'image' \[16, 16, 3\]"):
        Distill(epochs=1, teacher=(str(path),))(*case)


def test_a_file_that_is_no_model(case: tuple[Model, Dataset], tmp_path: Path) -> None:
    path = tmp_path / "text.keras"
    path.write_text("nothing")
    with pytest.raises(EdgedlError):
        Distill(epochs=1, teacher=(str(path),))(*case)


def test_a_teacher_of_nan(case: tuple[Model, Dataset]) -> None:
    broken = damaged(case[0])
    origin = clone(case[0].net)
    origin.layers[-1].set_weights([w * np.nan for w in origin.layers[-1].get_weights()])
    with pytest.raises(ModelError, match="gives values that are not numbers"):
        Distill(epochs=1)(replace(broken, origin=origin), case[1])


def test_a_learning_rate_that_is_too_large(case: tuple[Model, Dataset]) -> None:
    with pytest.raises(ModelError, match="learning rate"):
        Distill(epochs=1, optimizer="sgd", learning_rate=1e20, warmup=0.0)(damaged(case[0]), case[1])


def test_students_fit_by_what_they_are_derived_from(case: tuple[Model, Dataset]) -> None:
    net = students.thinner(case[0].net, 0.25)
    assert net.output_shape == (None, 5)
