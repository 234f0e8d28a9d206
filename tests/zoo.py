"""Small Keras 3 models of every kind, trained for a second or two on synthetic data that they can learn.

`build(name)` gives `(model, x, y)`: `x` and `y` are arrays, or dicts by input and output name where there are several.
Classifiers end in a softmax and have integer labels. Everything is seeded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgedl.frameworks import keras

SAMPLES = 512
Data = tuple[Any, Any]
Built = tuple[Any, Data]


def patterns(shape: tuple[int, ...], classes: int, noise: float = 0.5, seed: int = 1) -> Data:
    """`classes` fixed random patterns with noise on them: float32 `[SAMPLES, *shape]` and labels."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(classes, *shape))
    y = rng.integers(0, classes, SAMPLES)
    x = centres[y] + noise * rng.normal(size=(SAMPLES, *shape))
    return x.astype(np.float32), y.astype(np.int64)


def _train(model: Any, x: Any, y: Any, loss: Any, epochs: int = 4, rate: float = 3e-3) -> Any:
    model.compile(keras().optimizers.Adam(rate), loss, jit_compile=False)
    model.fit(x, y, epochs=epochs, batch_size=32, verbose=0)
    return model


def _classifier(model: Any, data: Data, epochs: int = 4) -> Built:
    return _train(model, *data, "sparse_categorical_crossentropy", epochs), data


def cnn() -> Built:
    """Convolution, max pooling, dense, dropout; 16x16x3 images, 5 classes."""
    L = keras().layers
    image = keras().Input((16, 16, 3), name="image")
    x = L.MaxPooling2D()(L.Conv2D(8, 3, activation="relu")(image))
    x = L.MaxPooling2D()(L.Conv2D(16, 3, padding="same", activation="relu")(x))
    x = L.Dense(24, activation="relu")(L.Dropout(0.2)(L.Flatten()(x)))
    model = keras().Model(image, L.Dense(5, activation="softmax")(x), name="cnn")
    return _classifier(model, patterns((16, 16, 3), 5))


def resnet() -> Built:
    """Residual blocks with batch normalization, one with a strided 1x1 shortcut; 16x16x3 images, 5 classes."""
    L = keras().layers
    image = keras().Input((16, 16, 3), name="image")

    def conv(x: Any, filters: int, size: int, stride: int = 1) -> Any:
        x = L.Conv2D(filters, size, stride, padding="same", use_bias=False)(x)
        return L.BatchNormalization(momentum=0.8)(x)

    x = L.ReLU()(conv(image, 8, 3))
    for filters, stride in ((8, 1), (16, 2)):
        shortcut = x if stride == 1 else conv(x, filters, 1, stride)
        x = conv(L.ReLU()(conv(x, filters, 3, stride)), filters, 3)
        x = L.ReLU()(L.Add()([x, shortcut]))
    x = L.GlobalAveragePooling2D()(x)
    model = keras().Model(image, L.Dense(5, activation="softmax")(x), name="resnet")
    return _classifier(model, patterns((16, 16, 3), 5), epochs=6)


def dscnn() -> Built:
    """Depthwise separable convolutions as in keyword spotting (Zhang et al., 2017); 20x10x1 features, 4 classes."""
    L = keras().layers
    x = features = keras().Input((20, 10, 1), name="features")
    x = L.ReLU()(L.BatchNormalization(momentum=0.8)(L.Conv2D(16, (5, 3), 2, padding="same")(x)))
    for _ in range(2):
        x = L.ReLU()(L.BatchNormalization(momentum=0.8)(L.DepthwiseConv2D(3, padding="same")(x)))
        x = L.ReLU()(L.BatchNormalization(momentum=0.8)(L.Conv2D(16, 1)(x)))
    x = L.Flatten()(L.AveragePooling2D((5, 5))(x))
    model = keras().Model(features, L.Dense(4, activation="softmax")(x), name="dscnn")
    return _classifier(model, patterns((20, 10, 1), 4), epochs=6)


def _recurrent(name: str) -> Built:
    L = keras().layers
    layer = {"lstm": L.LSTM, "gru": L.GRU}[name]
    frames = keras().Input((12, 6), name="frames")
    model = keras().Model(frames, L.Dense(4, activation="softmax")(layer(16)(frames)), name=name)
    return _classifier(model, patterns((12, 6), 4), epochs=5)


def lstm() -> Built:
    """LSTM classifier; 12 frames of 6 features, 4 classes."""
    return _recurrent("lstm")


def gru() -> Built:
    """GRU classifier; 12 frames of 6 features, 4 classes."""
    return _recurrent("gru")


def transformer() -> Built:
    """Two encoder blocks: multi-head attention, layer normalization, exact GELU; 12 frames of 8 features, 4 classes."""
    L = keras().layers
    frames = keras().Input((12, 8), name="frames")
    x = L.Conv1D(16, 3, padding="same")(frames)
    for _ in range(2):
        y = L.LayerNormalization()(x)
        x = L.Add()([x, L.MultiHeadAttention(num_heads=2, key_dim=8)(y, y)])
        y = L.Dense(32, activation="gelu")(L.LayerNormalization()(x))
        x = L.Add()([x, L.Dense(16)(y)])
    x = L.GlobalAveragePooling1D()(L.LayerNormalization()(x))
    model = keras().Model(frames, L.Dense(4, activation="softmax")(x), name="transformer")
    return _classifier(model, patterns((12, 8), 4))


def generator() -> Built:
    """Generator of a GAN: dense, reshape, transposed convolutions, LeakyReLU, tanh; 8 numbers to 16x16x1.

    It learns a fixed smooth picture of its input (mean squared error).
    """
    L = keras().layers
    rng = np.random.default_rng(3)
    z = rng.normal(size=(SAMPLES, 8)).astype(np.float32)
    grid = np.linspace(-1, 1, 16)
    waves = np.stack([np.outer(np.cos(3 * a * grid), np.sin(3 * b * grid + a)) for a, b in rng.normal(size=(8, 2))])
    y = np.tanh(np.einsum("nk,khw->nhw", z, waves) / 2)[..., None].astype(np.float32)
    noise = keras().Input((8,), name="noise")
    x = L.Reshape((4, 4, 16))(L.Dense(4 * 4 * 16)(noise))
    for filters in (16, 8):
        x = L.Conv2DTranspose(filters, 4, 2, padding="same", use_bias=False)(x)
        x = L.LeakyReLU(negative_slope=0.2)(L.BatchNormalization(momentum=0.8)(x))
    model = keras().Model(noise, L.Conv2D(1, 3, padding="same", activation="tanh")(x), name="generator")
    return _train(model, z, y, "mse", epochs=6), (z, y)


def twotower() -> Built:
    """Two-tower recommender: user and item ids (int32), embeddings, dense towers, dot product; the rating is a logit."""
    L = keras().layers
    rng = np.random.default_rng(4)
    users, items = rng.normal(size=(40, 3)), rng.normal(size=(60, 3))
    ids = {"user": rng.integers(0, 40, SAMPLES), "item": rng.integers(0, 60, SAMPLES)}
    y = np.einsum("nk,nk->n", users[ids["user"]], items[ids["item"]])[:, None].astype(np.float32)
    x = {name: values.astype(np.int32)[:, None] for name, values in ids.items()}
    inputs, towers = [], []
    for name, count in (("user", 40), ("item", 60)):
        node = keras().Input((1,), dtype="int32", name=name)
        tower = L.Dense(16, activation="relu")(L.Flatten()(L.Embedding(count, 8)(node)))
        inputs.append(node)
        towers.append(L.Dense(8)(tower))
    model = keras().Model(inputs, L.Dot(axes=1)(towers), name="twotower")
    return _train(model, x, y, "mse", epochs=25, rate=1e-2), (x, y)


def unet() -> Built:
    """U-Net: two levels, skip connections, upsampling, a mask per pixel; 16x16x1 images to 16x16x1 probabilities."""
    L = keras().layers
    rng = np.random.default_rng(5)
    y = np.zeros((SAMPLES, 16, 16, 1), np.float32)
    for mask, (top, left, height, width) in zip(y, rng.integers(2, 9, (SAMPLES, 4)), strict=True):
        mask[top : top + height, left : left + width] = 1
    x = (y + 0.3 * rng.normal(size=y.shape)).astype(np.float32)

    def block(x: Any, filters: int) -> Any:
        return L.Conv2D(filters, 3, padding="same", activation="relu")(x)

    image = keras().Input((16, 16, 1), name="image")
    first = block(image, 8)
    second = block(L.MaxPooling2D()(first), 16)
    bottom = block(L.MaxPooling2D()(second), 16)
    up = block(L.Concatenate()([L.UpSampling2D()(bottom), second]), 16)
    up = block(L.Concatenate()([L.Conv2DTranspose(8, 2, 2)(up), first]), 8)
    model = keras().Model(image, L.Conv2D(1, 1, activation="sigmoid")(up), name="unet")
    return _train(model, x, y, "binary_crossentropy", epochs=4), (x, y)


def multi_io() -> Built:
    """An image and a vector in, a class (softmax of 3) and a number out."""
    L = keras().layers
    image, label = patterns((8, 8, 1), 3, seed=6)
    vector = np.random.default_rng(7).normal(size=(SAMPLES, 4)).astype(np.float32)
    x = {"image": image, "vector": vector}
    y = {"kind": label, "amount": vector.sum(axis=1, keepdims=True)}
    inputs = [keras().Input((8, 8, 1), name="image"), keras().Input((4,), name="vector")]
    seen = L.Flatten()(L.Conv2D(6, 3, activation="relu")(inputs[0]))
    both = L.Dense(24, activation="relu")(L.Concatenate()([seen, inputs[1]]))
    outputs = {"kind": L.Dense(3, activation="softmax", name="kind")(both), "amount": L.Dense(1, name="amount")(both)}
    model = keras().Model(inputs, list(outputs.values()), name="multi_io")
    loss = ["sparse_categorical_crossentropy", "mse"]
    return _train(model, [x["image"], x["vector"]], [y["kind"], y["amount"]], loss, epochs=6), (x, y)


def shared() -> Built:
    """One convolution and one dense layer applied to two images (siamese); 1 where both show the same pattern."""
    L = keras().layers
    images, kinds = patterns((8, 8, 1), 3, noise=0.3, seed=8)
    order = np.random.default_rng(9).permutation(SAMPLES)
    x = {"left": images, "right": images[order]}
    y = (kinds == kinds[order]).astype(np.float32)[:, None]
    conv, dense = L.Conv2D(8, 3, activation="relu", name="conv"), L.Dense(8, name="embed")
    inputs = [keras().Input((8, 8, 1), name=name) for name in x]
    left, right = (dense(L.Flatten()(conv(node))) for node in inputs)
    product = L.Multiply()([left, right])
    model = keras().Model(inputs, L.Dense(1, activation="sigmoid")(product), name="shared")
    return _train(model, x, y, "binary_crossentropy", epochs=6), (x, y)


def nested() -> Built:
    """A model inside a model inside a model, as transfer learning makes them; 16x16x3 images, 5 classes."""
    L = keras().layers
    node = keras().Input((None, None, 3), name="pixels")
    stem = keras().Sequential([keras().Input((None, None, 3)), L.Conv2D(8, 3, 2, padding="same")], name="stem")
    x = L.ReLU()(L.BatchNormalization(momentum=0.8)(stem(node)))
    backbone = keras().Model(node, L.Conv2D(16, 3, padding="same", activation="relu")(x), name="backbone")
    image = keras().Input((16, 16, 3), name="image")
    x = L.GlobalAveragePooling2D()(backbone(L.Rescaling(0.5)(image)))
    model = keras().Model(image, L.Dense(5, activation="softmax", name="head")(x), name="nested")
    return _classifier(model, patterns((16, 16, 3), 5), epochs=6)


BUILDERS: dict[str, Callable[[], Built]] = {
    f.__name__: f
    for f in (cnn, resnet, dscnn, lstm, gru, transformer, generator, twotower, unet, multi_io, shared, nested)
}


def build(name: str) -> tuple[Any, Any, Any]:
    """The trained model called `name`, its inputs and its targets."""
    keras().backend.clear_session(free_memory=False)  # layer names start anew
    keras().utils.set_random_seed(20)
    model, (x, y) = BUILDERS[name]()
    return model, x, y
