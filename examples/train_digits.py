"""Train the small model that `make demo` compresses: scikit-learn's bundled digits, the last 600 held out.

python examples/train_digits.py [OUT.keras [EPOCHS]]
"""

import sys

import keras
from keras import layers
from sklearn.datasets import load_digits

TRAIN = 1197  # the digits after these were written by other people


def build() -> keras.Model:
    """A residual network for 8x8 grey images with values 0..16."""
    x = image = keras.Input((8, 8, 1), name="image")
    x = layers.Rescaling(1 / 16)(x)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(24, 3, padding="same", use_bias=False)(x)))
    skip = x
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(24, 3, padding="same", use_bias=False)(x)))
    x = layers.BatchNormalization()(layers.Conv2D(24, 3, padding="same", use_bias=False)(x))
    x = layers.ReLU()(layers.Add()([x, skip]))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(48, 3, strides=2, padding="same", use_bias=False)(x)))
    x = layers.ReLU()(layers.BatchNormalization()(layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)))
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(48, 1, use_bias=False)(x)))
    x = layers.Dropout(0.3)(layers.GlobalAveragePooling2D()(x))
    return keras.Model(image, layers.Dense(10, activation="softmax", name="digit")(x), name="digits")


def main(out: str = "examples/digits.keras", epochs: str = "60") -> None:
    """Train and save."""
    keras.utils.set_random_seed(0)
    digits = load_digits()
    x, y = digits.images[..., None].astype("float32"), digits.target
    model = build()
    rate = keras.optimizers.schedules.CosineDecay(3e-3, int(epochs) * 19)
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(x[:TRAIN], y[:TRAIN], batch_size=64, epochs=int(epochs), verbose=0)
    print(f"held-out accuracy {model.evaluate(x[TRAIN:], y[TRAIN:], verbose=0)[1]:.4f}")
    model.compile()  # without the optimizer's state the file is a third
    keras.saving.save_model(model, out)


if __name__ == "__main__":
    main(*sys.argv[1:])
