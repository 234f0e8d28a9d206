"""`bench` as a whole: artifacts that came from anywhere, data, and several targets."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .bench import Measurement, measure
from .options import everything
from .pipeline import Listener, Silent
from .recipe import Recipe
from .worker import Worker


def bench_artifacts(
    artifacts: Sequence[Path],
    recipe: Recipe,
    *,
    min_seconds: float = 1.0,
    max_seconds: float = 10.0,
    listener: Listener | None = None,
) -> list[Measurement]:
    """Measure artifacts on every target of the recipe; with data, their metric on the same target as well.

    Data without declared preprocessing gets the first artifact's own. Raises EdgedlError.
    """
    listener = listener or Silent()
    with tempfile.TemporaryDirectory(prefix="edgedl-") as name:
        folder = Path(name)
        if recipe.data.source:
            listener.begin("data")
            with Worker(recipe.limits.timeout_s) as worker:
                read_data(worker, artifacts[0], recipe, folder)
        found: list[Measurement] = []
        for target in recipe.targets:
            listener.begin(f"bench {target.name}")
            found += measure(
                artifacts,
                target.name,
                everything(target.options),
                data_folder=folder if recipe.data.source else None,
                min_seconds=min_seconds,
                max_seconds=max(min_seconds, max_seconds),
                progress=listener.progress,
                timeout_s=recipe.limits.timeout_s,
            )
    return found


def read_data(worker: Worker, artifact: Path, recipe: Recipe, folder: Path) -> None:
    """Read the recipe's data for an artifact into `folder`, all of it for validation unless a part is set aside."""
    found = worker.call("edgedl.steps:describe_file", path=str(artifact))
    options = recipe.data.or_preprocessing(found["preprocessing"])
    specs: dict[str, Any] = {k: found[k] for k in ("inputs", "outputs")}
    worker.call(
        "edgedl.steps:load_data", options=everything(options), folder=str(folder), seed=recipe.seed, whole=True, **specs
    )
