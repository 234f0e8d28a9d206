"""The peer of imported_latency.py: an .onnx to a float .tflite by onnx2tf alone. Run by its own Python.

PYTHON benchmarks/bare_onnx2tf.py MODEL.onnx OUT.tflite
"""

import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx2tf
from onnx2tf.utils import common_functions

# pictures for a trial run that onnx2tf fetches from the network; any will do
for module in (common_functions, onnx2tf.onnx2tf):
    module.download_test_image_data = lambda: np.random.default_rng(0).random((20, 128, 128, 3), np.float32)

with tempfile.TemporaryDirectory() as folder:
    onnx2tf.convert(
        input_onnx_file_path=sys.argv[1],
        output_folder_path=folder,
        copy_onnx_input_output_names_to_tflite=False,
        non_verbose=True,
        batch_size=1,
    )
    shutil.copyfile(next(Path(folder).glob("*_float32.tflite")), sys.argv[2])
