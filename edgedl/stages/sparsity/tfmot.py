"""tensorflow-model-optimization's own pruning and clustering on a tf_keras twin: a check of ours by someone else's code."""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from ...data import Dataset
from ...errors import DataError, ModelError, UsageError
from ...frameworks import fed, model_optimization, tensorflow, tf_keras
from ...model import Model
from ...options import changed
from ..rebuilding import clone
from ..training.loop import training_split
from ..training.options import Training
from ..training.task import kinds, labelled
from .kernels import Selection
from .patterns import Pattern
from .twin import bring_back, twin

OBEYED = {"epochs", "batch_size", "learning_rate", "seed", "loss", "engine", "include", "exclude"}
OF_PRUNING = {"sparsity", "pattern", "target", "start", "rise", "every"}
OF_CLUSTERING = {"clusters", "init", "fold"}
INITS = {"linear": "LINEAR", "density": "DENSITY_BASED", "kmeans++": "KMEANS_PLUS_PLUS"}


def library() -> Any:
    """The module `tensorflow_model_optimization`. Raises MissingDependencyError."""
    return model_optimization('engine = "tfmot" needs', "leave engine out")


def prune(
    model: Model, data: Dataset, options: Any, chosen: Selection, pattern: Pattern, sparsity: float
) -> tuple[Any, dict[str, Any]]:
    """The network pruned by tfmot's `prune_low_magnitude`, and a record. Its block patterns only take dense layers."""
    _check(options, OF_PRUNING)
    sparse = library().sparsity.keras
    steps = _steps(data, options)
    rise = max(1, round(steps * options.rise))
    every = options.every or max(1, rise // 50)
    timing = sparse.ConstantSparsity(sparsity, 0, frequency=1)
    if options.epochs:
        timing = sparse.PolynomialDecay(min(options.start, sparsity), sparsity, 0, rise, frequency=every)
    arguments: dict[str, Any] = {"pruning_schedule": timing}
    if pattern.keep is not None:
        arguments["sparsity_m_by_n"] = (pattern.columns - pattern.keep, pattern.columns)
    elif (pattern.rows, pattern.columns) != (1, 1):
        arguments |= {
            "block_size": (pattern.columns, pattern.rows),
            "block_pooling_type": "AVG",
        }  # its kernels: [in, out]
    names = _layers(chosen, "prune")

    def wrap(layer: Any) -> Any:
        return sparse.prune_low_magnitude(layer, **arguments) if layer.name in names else layer

    original = twin(model.net)
    with _as_model_error():
        wrapped = tf_keras().models.clone_model(original, clone_function=wrap)
    found = _fit(wrapped, model, data, options, [sparse.UpdatePruningStep()])
    for layer in wrapped.layers:
        if hasattr(layer, "pruning_obj"):
            if not options.epochs:
                layer.pruning_step.assign(1)
                layer.pruning_obj.conditional_mask_update()
            layer.pruning_obj.weight_mask_op()
    net = clone(model.net)
    bring_back(sparse.strip_pruning(wrapped), net)
    return net, found


def cluster(model: Model, before: Any, data: Dataset, options: Any, chosen: Selection) -> tuple[Any, dict[str, Any]]:
    """The network `before` clustered by tfmot's `cluster_weights` (sparsity kept), and a record."""
    _check(options, OF_CLUSTERING | {"keep_zeros"})
    tables = library().clustering.keras
    wrapped_by = importlib.import_module(  # keeps zeros, as the public name does not
        "tensorflow_model_optimization.python.core.clustering.keras.experimental.cluster"
    ).cluster_weights
    names = _layers(chosen, "cluster")
    init = getattr(tables.CentroidInitialization, INITS[options.init])
    zeros = {k.layer: options.keep_zeros and bool((k.value() == 0).any()) for k in chosen.chosen}
    original = twin(before)

    def wrap(layer: Any) -> Any:
        if layer.name not in names:
            return layer
        return wrapped_by(layer, options.clusters, init, preserve_sparsity=zeros[layer.name])

    with _as_model_error():
        wrapped = tf_keras().models.clone_model(original, clone_function=wrap)
    found = _fit(wrapped, model, data, options, [])
    net = clone(before)
    bring_back(tables.strip_clustering(wrapped), net)
    return net, found


def _layers(chosen: Selection, what: str) -> set[str]:
    """Names of the layers to wrap: tfmot takes all kernels of a layer or none."""
    names = {k.layer for k in chosen.chosen}
    split = names & {k.layer for k, _ in chosen.left}
    if split:
        raise UsageError(
            f"tensorflow-model-optimization can {what} all kernels of a layer or none, and of {', '.join(sorted(split))} "
            "only some are chosen",
            next="name layers, not kernels, in include and exclude, or leave engine out",
        )
    return names


def _check(options: Training, own: set[str]) -> None:
    """Raise UsageError for options that the other engine would silently ignore."""
    ignored = sorted(set(changed(options)) - OBEYED - own)
    if ignored:
        raise UsageError(
            f'engine = "tfmot" knows nothing of {", ".join(ignored)}', next="leave them out, or leave engine out"
        )


def _steps(data: Dataset, options: Training) -> int:
    return options.epochs * -(-len(training_split(data)) // options.batch_size) if options.epochs else 0


def _fit(wrapped: Any, model: Model, data: Dataset, options: Any, callbacks: Sequence[Any]) -> dict[str, Any]:
    """Train a tf_keras model with Adam at a constant rate on the labels, or on what the origin gives."""
    if not options.epochs:
        return {}
    split, k = training_split(data), tf_keras()
    if options.loss == "labels" and split.y is None:
        raise DataError('loss = "labels" needs labels, and the training data has none', next="leave loss out")
    feed = data.feed(split)
    x = [feed[name] for name in split.x]
    k.utils.set_random_seed(options.seed)
    aim = "labels" if split.y is not None and options.loss != "origin" else "origin"
    y, losses = _targets(model, data, x, aim)
    wrapped.compile(k.optimizers.Adam(options.peak), losses)
    history = wrapped.fit(
        x if len(x) > 1 else x[0], y, batch_size=options.batch_size, epochs=options.epochs, verbose=0,
        callbacks=list(callbacks),
    )  # fmt: skip
    epochs = [{"loss": float(v)} for v in history.history["loss"]]
    return {"epochs": epochs, "epochs_done": len(epochs), "aim": aim}


def _targets(model: Model, data: Dataset, x: Sequence[Any], aim: str) -> tuple[Any, Any]:
    """(targets, losses) for tf_keras, one each for every output."""
    k = tf_keras().losses
    if aim == "labels":
        wanted: Any = labelled(model, data)
        if len(model.outputs) > 1:
            raise UsageError(
                'engine = "tfmot" trains a model of several outputs on those of the origin only',
                next='use loss = "origin", or leave engine out',
            )
        y = np.asarray(training_split(data).y)
        if not wanted.classes:
            return y.reshape((len(y), *model.net.outputs[0].shape[1:])), k.MeanSquaredError()
        return y, k.SparseCategoricalCrossentropy(from_logits=wanted.kind not in ("probabilities", "sigmoid"))
    teacher = model.net if model.origin is None else model.origin
    found = teacher.predict(fed(teacher, x), verbose=0)
    each = {"probabilities": k.KLDivergence, "sigmoid": k.BinaryCrossentropy}
    losses = [each.get(kind, k.MeanSquaredError)() for kind in kinds(model.net)]
    return found, losses if len(losses) > 1 else losses[0]


@contextlib.contextmanager
def _as_model_error() -> Iterator[None]:
    """What tfmot refuses, in one sentence."""
    try:
        yield
    except (ValueError, TypeError, tensorflow().errors.OpError) as error:
        raise ModelError(
            f"tensorflow-model-optimization refuses this model: {' '.join(str(error).split())[:200]}",
            next="exclude the layer, or leave engine out",
        ) from error
