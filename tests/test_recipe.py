"""Recipes: TOML in and out, command-line settings over them, and every mistake named."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from edgedl.errors import RecipeError, UsageError
from edgedl.recipe import assemble, from_table, read


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
