"""The registry of stages: each takes a Model and hands back a changed one."""

STAGES = {
    "finetune": "edgedl.stages.finetune:Finetune",
    "quantize": "edgedl.stages.quantize:Quantize",
}
