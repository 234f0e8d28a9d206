"""The peer of imported_latency.py: ResNet-20 to a float .tflite by litert-torch alone. Run by its own Python.

PYTHON benchmarks/bare_litert_torch.py OUT.tflite [WEIGHTS.th]
"""

import sys
from pathlib import Path

import litert_torch
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))
from resnet20_torch import ResNet20

net = ResNet20()
if len(sys.argv) > 2:
    state = torch.load(sys.argv[2], weights_only=True, map_location="cpu")
    state = state.get("state_dict", state)
    net.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
litert_torch.convert(net.eval(), (torch.randn(1, 3, 32, 32),)).export(sys.argv[1])
