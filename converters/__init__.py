"""The registries of importers (file -> Model), converters (Model -> Artifact) and inspectors (file -> layers)."""

CONVERTERS = {
    "tflite": "edgedl.converters.to_tflite:ToTflite",
    "onnx": "edgedl.converters.to_onnx:ToOnnx",
}

IMPORTERS = {
    "keras": "edgedl.converters.from_keras:load_keras",
    "h5": "edgedl.converters.from_keras:load_h5",
    "onnx": "edgedl.converters.from_onnx:load_onnx",
    "saved_model": "edgedl.converters.from_saved_model:load_saved_model",
}

INSPECTORS = {
    "keras": "edgedl.converters.inspect_keras:KerasInspector",
    "tflite": "edgedl.converters.inspect_tflite:TfliteInspector",
    "onnx": "edgedl.converters.inspect_onnx:OnnxInspector",
}
