"""Recipes: TOML in and out, command-line settings over them, and every mistake named."""

from __future__ import annotations

import dataclasses
import re
import tomllib
from pathlib import Path

import pytest

from edgedl.errors import RecipeError, UsageError
from edgedl.pipeline import TRAIN_SHARE, with_defaults
from edgedl.recipe import Recipe, assemble, from_table, read
from edgedl.stages.training.options import Augment


def test_toml_round_trip() -> None:
    recipe = assemble(
        "m.keras",
        data={"source": "d.npz", "mean": [0.5], "std": [0.5]},
        quantize={"scheme": "int16x8", "overrides": {"head*": "float32"}},
        formats=["tflite", "onnx"],
        targets=["cpu"],
        limits={"max_drop": 0.01, "fallback": ["fp16"]},
        seed=3,
    )
    for full in (True, False):
        assert from_table(tomllib.loads(recipe.to_toml(full=full))) == recipe


def test_settings_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('model = "a.keras"\n[[stages]]\nstage = "quantize"\nscheme = "fp16"\n[[targets]]\ntarget = "cpu"\n')
    settings = [("quantize.scheme", "int8"), ("cpu.threads", 2), ("data.scale", 0.5), ("limits.max_drop", 0.1)]
    recipe = assemble(recipe=path, settings=settings)
    assert recipe.model == "a.keras"
    assert recipe.stages[0].options.scheme == "int8"
    assert recipe.targets[0].options.threads == 2
    assert recipe.data.scale == 0.5
    assert recipe.limits.max_drop == 0.1
    assert len(recipe.stages) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('model = "m"\nmodle = 1', "did you mean 'model'"),
        ("seed = 1", "names no model"),
        ('model = "m"\n[[stages]]\nstage = "quantise"', "did you mean 'quantize'"),
        ('model = "m"\n[[stages]]\nstage = "quantize"\nsheme = "int8"', "did you mean 'scheme'"),
        ('model = "m"\n[[stages]]\nstage = "quantize"\nscheme = "int9"', "cannot be 'int9'"),
        ('model = "m"\n[[stages]]\nscheme = "int8"', "has no 'stage'"),
        ('model = "m"\nstages = "quantize"', "must be a list of tables"),
        ('model = "m"\ndata = "d.npz"', "must be a table"),
        ('model = "m"\n[data]\nsorce = "d.npz"', "did you mean 'source'"),
        ('model = "m"\n[limits]\nmax_drop = 3.0', "max_drop is 3.0"),
        ('model = "m"\n[limits]\ntimeout_s = 0.0', "leaves nothing"),
        ('model = "m"\n[[targets]]\ntarget = "gpuu"', "there is no target"),
        ('model = "m"\n[[stages]]\nstage = 3', "stages.stage is 3, but must be text"),
        ("model = 3", "model is 3, but must be text"),
        ('model = "m"\nseed = -1', "the seed is -1"),
        ('model = "m"\nseed = 4294967296', "the seed is 4294967296"),
        ('model = "m"\n[data]\nscale = nan', "data.scale is nan"),
        ('model = "m"\n[data]\nstd = [nan]', "data.std is nan"),
        ('model = "m"\n[data]\nmemory_gib = nan', "data.memory_gib is nan"),
        ('model = "m"\n[limits]\nmax_drop = nan', "limits.max_drop is nan"),
        ('model = "m"\n[limits]\ntimeout_s = inf', "limits.timeout_s is inf"),
        (
            'model = "m"\n[[stages]]\nstage = "quantize"\n[[stages]]\nstage = "quantize"',
            "'quantize' twice in its stages",
        ),
        ('model = "m"\n[[exports]]\nformat = "onnx"\n[[exports]]\nformat = "onnx"\nopset = 18', "'onnx' twice"),
        ('model = "m"\n[[targets]]\ntarget = "cpu"\n[[targets]]\ntarget = "cpu"', "'cpu' twice in its targets"),
        ('model = "m"\n[[stages]]\nstage = "prune_chanels"', "did you mean 'prune_channels'"),
        ('model = "m"\n[[stages]]\nstage = "finetune"\naugment = 3', "finetune.augment is 3, but must be a table"),
        ('model = "m"\n[[stages]]\nstage = "finetune"\naugment.shfit = 3', "did you mean 'shift'"),
        ('model = "m"\n[[stages]]\nstage = "finetune"\naugment.shift = -3', "augment.shift is -3"),
        ('model = "m"\n[[stages]]\nstage = "finetune"\naugment.mixup = nan', "augment.mixup is nan"),
        ('model = "m"\n[[stages]]\nstage = "prune_channels"\nratio = 1.0', "ratio is 1"),
        ('model = "m"\n[[stages]]\nstage = "prune_channels"\nbudget = "mac"', "did you mean 'macs'"),
        ('model = "m"\n[limits]\ntrain_timeout_s = 0.0', "leaves nothing"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=says) as caught:
        assemble(recipe=path)
    assert caught.value.next


@pytest.mark.parametrize("line", ["stages = 3", "exports = 3", "targets = [3]", "data = 3", "limits = 3"])
def test_a_value_where_a_table_must_be_is_named_before_the_command_line_is_merged(tmp_path: Path, line: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(f'model = "m"\n{line}')
    key = line.partition(" ")[0]
    with pytest.raises(RecipeError, match=f"'{key}' must be a"):
        assemble(
            recipe=path,
            quantize={"scheme": "int8"},
            limits={"max_drop": 0.01},
            data={"scale": 0.5},
            settings=[("quantize.samples", 9), ("cpu.threads", 2), ("onnx.opset", 18), ("data.mean", 0.5)],
        )


def test_what_may_be_there_once_is_refused_twice_also_from_the_command_line() -> None:
    with pytest.raises(RecipeError, match="'tflite' twice in its exports"):
        assemble("m.keras", formats=["tflite", "onnx", "tflite"])
    table = {"model": "m", "targets": [{"target": "cpu"}, {"target": "cpu", "threads": 2}]}
    assert len(from_table(table).targets) == 2, "a target with other options is another measurement"


def test_one_number_stands_for_all_channels() -> None:
    recipe = assemble("m.keras", data={"mean": 0.5}, settings=[("data.std", 2)])
    assert (recipe.data.mean, recipe.data.std) == ((0.5,), (2.0,))


@pytest.mark.parametrize(
    "content", [b"model = ", b"\xff\xfe\x00", b"x" * ((1 << 20) + 1)], ids=["cut", "binary", "huge"]
)
def test_unreadable_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "r.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError):
        read(path)
    with pytest.raises(RecipeError, match="No such file"):
        read(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("place", "says"), [("quantize", "names no option"), ("quantise.scheme", "did you mean 'quantize'")]
)
def test_settings_that_lead_nowhere(place: str, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        assemble("m.keras", settings=[(place, 1)])


def names(recipe: Recipe) -> list[str]:
    return [s.name for s in recipe.stages]


def test_tables_inside_options_go_to_toml_and_back() -> None:
    recipe = assemble(
        "m.keras",
        stages=[("prune_channels", {"ratio": 0.3, "augment": {"shift": 4, "flip": True}}), ("finetune", {})],
    )
    assert recipe.stages[0].options.augment == Augment(shift=4, flip=True)
    for full in (True, False):
        assert from_table(tomllib.loads(recipe.to_toml(full=full))) == recipe
    brief = tomllib.loads(recipe.to_toml(full=False))["stages"]
    assert brief == [
        {"stage": "prune_channels", "ratio": 0.3, "augment": {"shift": 4, "flip": True}},
        {"stage": "finetune"},
    ]
    whole = tomllib.loads(recipe.to_toml())["stages"]
    assert set(whole[1]["augment"]) == {f.name for f in dataclasses.fields(Augment)}, (
        "every option can be read and edited"
    )


def test_settings_reach_into_a_table(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(
        'model = "m"\n[[stages]]\nstage = "prune_channels"\nratio = 0.3\n[stages.augment]\nflip = true\nshift = 1\n'
    )
    found = assemble(recipe=path, settings=[("prune_channels.augment.shift", 4)]).stages[0].options
    assert (found.augment, found.ratio) == (Augment(flip=True, shift=4), 0.3), "the rest of the table stays"
    found = assemble("m.keras", settings=[("finetune.augment.noise", 0.1), ("finetune.epochs", 3)]).stages[0].options
    assert (found.augment, found.epochs) == (Augment(noise=0.1), 3), "a stage and a table that were not there"
    assert assemble(recipe=path, settings=[("prune_channels.augment", {"cutout": 2})]).stages[
        0
    ].options.augment == Augment(cutout=2)


@pytest.mark.parametrize(
    ("place", "value", "says"),
    [
        ("prune_channels.augment.shfit", 4, "prune_channels.augment has no option 'shfit': did you mean 'shift'"),
        ("prune_channels.augment.shift", 0.5, "prune_channels.augment.shift is 0.5, but must be a whole number"),
        ("prune_channels.augment.shift.x", 1, "prune_channels.augment.shift is {'x': 1}, but must be a whole number"),
        ("prune_channels.augment", 4, "prune_channels.augment is 4, but must be a table"),
        ("prune_channels.ratio.x", 1, "'ratio' is no table, so 'ratio.x' names nothing"),
        ("prune_channels.augment.", 1, "has no option ''"),
        ("prune_channels.", 1, "has no option ''"),
        ("data.inputs.image.scale", 2, "data has no option 'inputs.image.scale'"),
    ],
)
def test_settings_that_fit_no_table_are_named(tmp_path: Path, place: str, value: object, says: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text('model = "m"\n[[stages]]\nstage = "prune_channels"\nratio = 0.3\n')
    with pytest.raises(UsageError, match=re.escape(says)) as caught:
        assemble(recipe=path, settings=[(place, value)])
    assert caught.value.next


REPEATED = """model = "m"
[[stages]]
stage = "prune_channels"
ratio = 0.25
[[stages]]
stage = "finetune"
epochs = 2
[[stages]]
stage = "prune_channels"
ratio = 0.5
[[stages]]
stage = "finetune"
epochs = 4
[[stages]]
stage = "quantize"
scheme = "int8"
"""


def test_stages_that_change_the_network_may_come_again(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(REPEATED)
    recipe = assemble(recipe=path)
    assert names(recipe) == ["prune_channels", "finetune", "prune_channels", "finetune", "quantize"]
    assert [s.options.epochs for s in recipe.stages if s.name == "finetune"] == [2, 4]
    for full in (True, False):
        assert from_table(tomllib.loads(recipe.to_toml(full=full))) == recipe


def test_a_stage_asked_for_changes_the_first_of_its_name_then_the_next(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text(REPEATED)
    once = assemble(recipe=path, stages=[("prune_channels", {"budget": "params"})])
    assert names(once) == ["prune_channels", "finetune", "prune_channels", "finetune", "quantize"]
    assert [(s.options.ratio, s.options.budget) for s in once.stages if s.name == "prune_channels"] == [
        (0.25, "params"),
        (0.5, "macs"),
    ], "what the file says and was not asked for stays"
    thrice = assemble(recipe=path, stages=[("finetune", {"epochs": n}) for n in (7, 8, 9)])
    assert [s.options.epochs for s in thrice.stages if s.name == "finetune"] == [7, 8, 9]
    assert names(thrice) == ["prune_channels", "finetune", "prune_channels", "finetune", "finetune", "quantize"]


def test_a_new_stage_goes_behind_those_of_the_file_and_before_quantization(tmp_path: Path) -> None:
    path = tmp_path / "r.toml"
    path.write_text('model = "m"\n[[stages]]\nstage = "finetune"\n[[stages]]\nstage = "quantize"\nscheme = "fp16"\n')
    recipe = assemble(recipe=path, stages=[("low_rank", {}), ("cluster", {"clusters": 8})], quantize={"scheme": "int8"})
    assert names(recipe) == ["finetune", "low_rank", "cluster", "quantize"]
    assert recipe.stages[-1].options.scheme == "int8"
    alone = assemble("m.keras", stages=iter([("low_rank", {}), ("cluster", {})]), quantize={"scheme": "int8"})
    assert names(alone) == ["low_rank", "cluster", "quantize"]
    assert names(assemble("m.keras", stages=[("finetune", {}), ("finetune", {})])) == ["finetune", "finetune"]


def test_the_caller_s_options_are_left_as_they_were() -> None:
    options = {"ratio": 0.3}
    assemble("m.keras", stages=[("prune_channels", options)], settings=[("prune_channels.augment.shift", 4)])
    assert options == {"ratio": 0.3}
    augment = {"flip": True}
    assemble("m.keras", stages=[("finetune", {"augment": augment})], settings=[("finetune.augment.shift", 4)])
    assert augment == {"flip": True}, "a table inside them too"


def test_a_source_that_stands_alone_is_cut_for_stages_that_train() -> None:
    model = str(Path(__file__).parents[1] / "examples/digits.keras")
    assert with_defaults(assemble(model)).data.train_share == 0.0
    assert with_defaults(assemble(model, stages=[("prune_channels", {})])).data.train_share == 0.0, "it trains nothing"
    training = [("prune_channels", {}), ("finetune", {"epochs": 1})]
    assert with_defaults(assemble(model, stages=training)).data.train_share == TRAIN_SHARE
    for data in ({"train": "t.npz"}, {"train_share": 0.3}):
        found = with_defaults(assemble(model, stages=training, data=data)).data
        assert (found.train, found.train_share) == (data.get("train", ""), data.get("train_share", 0.0))
