"""The registry of stages: each takes a Model and hands back a changed one."""

STAGES = {
    "quantize": "edgedl.stages.quantize:Quantize",
}
