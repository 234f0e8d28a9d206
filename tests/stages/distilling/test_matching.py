"""Which layers are matched: by name after pruning, by size and place for another network, or as told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

pytest.importorskip("keras", reason="needs keras: pip install 'edgedl[compress]'")

from edgedl.errors import UsageError
from edgedl.frameworks import keras
from edgedl.stages.distilling.matching import everything, match, points
from edgedl.stages.rebuilding import clone

Zoo = Callable[[str], tuple[Any, Any, Any]]


def names(net: Any) -> list[str]:
    return [p.name for p in points(net)]


def resnet(channels: int, blocks: int, prefix: str = "", post: bool = True) -> Any:
    """A residual network of three sizes; `prefix` makes its layers' names its own."""
    L = keras().layers
    image = keras().Input((16, 16, 3))
    x = L.Conv2D(channels, 3, padding="same", name=f"{prefix}stem")(image)
    for stage in range(3):
        for block in range(blocks):
            name = f"{prefix}s{stage}b{block}"
            stride = 2 if block == 0 and stage else 1
            y = L.Conv2D(channels * 2**stage, 3, stride, padding="same", activation="relu", name=f"{name}_a")(x)
            y = L.Conv2D(channels * 2**stage, 3, padding="same", name=f"{name}_b")(y)
            same = stride == 1 and x.shape[-1] == y.shape[-1]
            z = x if same else L.Conv2D(channels * 2**stage, 1, stride, name=f"{name}_c")(x)
            x = L.Add(name=f"{name}_add")([z, y])
            x = L.ReLU(name=f"{name}_out")(x) if post else x
    x = L.GlobalAveragePooling2D(name=f"{prefix}pool")(x)
    return keras().Model(image, L.Dense(5, activation="softmax", name=f"{prefix}head")(x))


def test_points_are_the_last_residual_sums_of_each_size_and_the_embedding() -> None:
    assert names(resnet(4, 2)) == ["s0b1_out", "s1b1_out", "s2b1_out", "pool"]
    assert names(resnet(4, 2, post=False)) == ["s0b1_add", "s1b1_add", "s2b1_add", "pool"]


def test_points_of_the_zoo(zoo: Zoo) -> None:
    assert [p.spatial for p in points(zoo("unet")[0])] == [(4, 4), (8, 8), (16, 16)]
    assert [p.spatial for p in points(zoo("generator")[0])] == [(), (8, 8), (16, 16)]
    assert [p.spatial for p in points(zoo("transformer")[0])] == [(12,), (12,), ()]
    assert [p.spatial for p in points(zoo("lstm")[0])] == [()]
    assert [p.spatial for p in points(zoo("nested")[0])] == [(8, 8), ()]


def test_a_thinner_descendant_is_matched_by_name() -> None:
    pairs = match(resnet(3, 2), resnet(4, 2))
    assert [(p.student.name, p.teacher.name) for p in pairs] == [(n, n) for n in names(resnet(4, 2))]
    assert all(p.projected for p in pairs)


def test_no_projection_where_channels_agree() -> None:
    net = resnet(4, 2)
    assert not any(p.projected for p in match(clone(net), net))


def test_another_network_is_matched_by_size_and_place() -> None:
    pairs = match(resnet(3, 1, "small_"), resnet(4, 4, "big_"))
    assert [(p.student.name, p.teacher.name) for p in pairs] == [
        ("small_s0b0_out", "big_s0b3_out"),
        ("small_s1b0_out", "big_s1b3_out"),
        ("small_s2b0_out", "big_s2b3_out"),
        ("small_pool", "big_pool"),
    ]


def test_names_that_agree_by_accident_are_no_descent() -> None:
    """Keras numbers its layers: conv2d_1 of two networks need not be one layer."""
    L = keras().layers
    image = keras().Input((16, 16, 3))
    x = L.Conv2D(4, 3, 4, padding="same", name="s0b0_a")(image)
    x = L.Conv2D(4, 3, 2, padding="same", name="s0b0_b")(x)
    x = L.GlobalAveragePooling2D(name="pooling")(x)
    student = keras().Model(image, L.Dense(5, activation="softmax")(x))
    assert {p.student.name: p.teacher.name for p in match(student, resnet(4, 2))} == {
        "s0b0_a": "s2b1_out",
        "pooling": "pool",
    }


def test_nothing_is_matched_where_no_sizes_agree(zoo: Zoo) -> None:
    L = keras().layers
    image = keras().Input((16, 16, 3))
    x = L.Conv2D(4, 4, 3, name="odd")(image)
    student = keras().Model(image, L.Conv2D(5, 5, activation="softmax", name="end")(x))
    assert match(student, zoo("unet")[0]) == ()


def test_layers_may_be_named() -> None:
    student, teacher = resnet(3, 2), resnet(4, 2)
    assert [p.student.name for p in match(student, teacher, ["s?b0_add", "pool"])] == [
        "s0b0_add",
        "s1b0_add",
        "s2b0_add",
        "pool",
    ]
    (pair,) = match(student, teacher, ["s1b0_add=s1b1_b"])
    assert (pair.student.name, pair.teacher.name) == ("s1b0_add", "s1b1_b")
    assert len(match(student, teacher, ["pool", "po*"])) == 1


@pytest.mark.parametrize(
    ("layers", "said"),
    [
        (["s9*"], "no layer of the model matches 's9\\*'"),
        (["pol"], "did you mean 'pool'"),
        (["pool=s9"], "the teacher has no layer 's9'"),
        (["s9=pool"], "the model has no layer 's9'"),
        (["pool=s1b0_add"], r"differ in size: the model's pool \[12\], the teacher's s1b0_add \[8, 8, 8\]"),
        ([""], "no layer of the model matches ''"),
    ],
)
def test_layers_that_are_not_there(layers: list[str], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        match(resnet(3, 1), resnet(4, 1), layers)


def test_a_layer_that_only_the_student_has() -> None:
    with pytest.raises(UsageError, match="the teacher has no layer of the same name and size as 'small_pool'"):
        match(resnet(3, 1, "small_"), resnet(4, 1), ["small_pool"])


def test_shared_layers_ids_and_outputs_are_no_points(zoo: Zoo) -> None:
    assert not {"conv", "embed"} & set(everything(clone(zoo("shared")[0])))
    assert not {"user", "item", "dot"} & set(everything(zoo("twotower")[0]))
