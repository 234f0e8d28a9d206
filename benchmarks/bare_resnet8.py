"""What a user would write by hand: load, convert and quantize once each, no checks, no report. Peer of wall_time.py.

python benchmarks/bare_resnet8.py MODEL.h5 CALIBRATION.npz FOLDER
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
os.environ["KERAS_BACKEND"] = "tensorflow"

import keras
import numpy as np
import onnx
import tensorflow as tf
import tf2onnx
from ai_edge_quantizer import algorithm_manager, qtyping
from ai_edge_quantizer.quantizer import Quantizer
from onnxruntime.quantization import CalibrationDataReader, quantize_static


def tflite(net: keras.Model, images: np.ndarray, folder: Path) -> None:
    """Float .tflite by TensorFlow's converter, int8 by ai-edge-quantizer."""
    content = tf.lite.TFLiteConverter.from_keras_model(net).convert()
    (folder / "float.tflite").write_bytes(content)
    quantizer = Quantizer(str(folder / "float.tflite"))
    weights = qtyping.TensorQuantizationConfig(
        num_bits=8, symmetric=True, granularity=qtyping.QuantGranularity.CHANNELWISE
    )
    activations = qtyping.TensorQuantizationConfig(
        num_bits=8, symmetric=False, granularity=qtyping.QuantGranularity.TENSORWISE
    )
    config = qtyping.OpQuantizationConfig(
        activation_tensor_config=activations,
        weight_tensor_config=weights,
        compute_precision=qtyping.ComputePrecision.INTEGER,
    )
    quantizer.update_quantization_recipe(
        ".*", qtyping.TFLOperationName.ALL_SUPPORTED, config, algorithm_manager.AlgorithmName.MIN_MAX_UNIFORM_QUANT
    )
    name = next(iter(tf.lite.Interpreter(model_content=content).get_signature_runner().get_input_details()))
    found = quantizer.calibrate({"serving_default": [{name: image[None]} for image in images]})
    quantizer.quantize(found).export_model(str(folder / "int8.tflite"), overwrite=True)


class Reader(CalibrationDataReader):
    """Images one by one."""

    def __init__(self, name: str, images: np.ndarray) -> None:
        self.rows = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.rows, None)


def main(model: str, calibration: str, out: str) -> None:
    """Both formats."""
    folder = Path(out)
    folder.mkdir(parents=True)
    images = np.load(calibration)["x"].astype(np.float32)
    net = keras.models.load_model(model, compile=False)
    tflite(net, images, folder)
    spec = tf.TensorSpec([None, *net.inputs[0].shape[1:]], tf.float32, name="input")
    proto, _ = tf2onnx.convert.from_function(tf.function(net), input_signature=[spec], opset=18)
    onnx.save(proto, folder / "float.onnx")
    quantize_static(
        folder / "float.onnx", folder / "int8.onnx", Reader(proto.graph.input[0].name, images), per_channel=True
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
