"""The registry of targets: where an artifact is run and measured."""

TARGETS = {
    "cpu": "edgedl.targets.cpu:Cpu",
    "fake": "edgedl.targets.fake:Fake",
}
