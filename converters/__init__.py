"""The registries of importers (file -> Model), their sources (file -> ONNX graph), converters (Model -> Artifact) and
inspectors (file -> layers).
"""

CONVERTERS = {
    "tflite": "edgedl.converters.to_tflite:ToTflite",
    "onnx": "edgedl.converters.to_onnx:ToOnnx",
}

IMPORTERS = {
    "caffe": "edgedl.converters.from_caffe:load_caffe",
    "checkpoint": "edgedl.converters.from_graphdef:load_checkpoint",
    "graphdef": "edgedl.converters.from_graphdef:load_graphdef",
    "h5": "edgedl.converters.from_keras:load_h5",
    "jax": "edgedl.converters.from_jax:load_jax",
    "keras": "edgedl.converters.from_keras:load_keras",
    "mxnet": "edgedl.converters.from_mxnet:load_mxnet",
    "onnx": "edgedl.converters.from_onnx:load_onnx",
    "saved_model": "edgedl.converters.from_saved_model:load_saved_model",
    "tflite": "edgedl.converters.from_tflite:load_tflite",
    "torch": "edgedl.converters.from_torch:load_torch",
}

SOURCES = {  # what an import is held to again, node by node; a source may be None: of a file that keeps its Keras layers
    "caffe": "edgedl.converters.from_caffe:source",
    "checkpoint": "edgedl.converters.from_graphdef:source",
    "graphdef": "edgedl.converters.from_graphdef:source",
    "h5": "edgedl.converters.from_keras:source",
    "jax": "edgedl.converters.from_jax:source",
    "mxnet": "edgedl.converters.from_mxnet:source",
    "onnx": "edgedl.converters.from_onnx:source",
    "saved_model": "edgedl.converters.from_saved_model:source",
    "tflite": "edgedl.converters.from_tflite:source",
    "torch": "edgedl.converters.from_torch:source",
}
COMPARE = "edgedl.converters.from_onnx:compare"  # (source, path, options, network) -> entries, first node that differs

FIRMWARE = "edgedl.converters.to_c:firmware"  # (path of a .tflite, features of a core, name) -> Firmware

FOOTPRINT = "edgedl.converters.footprint:footprint"  # path of a .tflite or .onnx -> Footprint

PROVE = "edgedl.converters.from_onnx:prove"  # (source, path, options, model, inputs) -> entries of Model.proof

INSPECTORS = {
    "keras": "edgedl.converters.inspect_keras:KerasInspector",
    "tflite": "edgedl.converters.inspect_tflite:TfliteInspector",
    "onnx": "edgedl.converters.inspect_onnx:OnnxInspector",
}
