"""The registry of stages: each takes a Model and hands back a changed one."""

STAGES = {
    "distill": "edgedl.stages.distill:Distill",
    "cluster": "edgedl.stages.cluster:Cluster",
    "finetune": "edgedl.stages.finetune:Finetune",
    "low_rank": "edgedl.stages.low_rank:LowRank",
    "prune_channels": "edgedl.stages.prune_channels:PruneChannels",
    "prune_weights": "edgedl.stages.prune_weights:PruneWeights",
    "quantize": "edgedl.stages.quantize:Quantize",
}
