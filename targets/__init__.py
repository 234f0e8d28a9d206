"""The registry of targets: where an artifact is run and measured."""

TARGETS = {
    "cpu": "edgedl.targets.cpu:Cpu",
    "fake": "edgedl.targets.fake:Fake",
    "cortex-m0plus": "edgedl.targets.mcu.target:CortexM0Plus",
    "cortex-m3": "edgedl.targets.mcu.target:CortexM3",
    "cortex-m4": "edgedl.targets.mcu.target:CortexM4",
    "cortex-m7": "edgedl.targets.mcu.target:CortexM7",
    "cortex-m33": "edgedl.targets.mcu.target:CortexM33",
    "cortex-m55": "edgedl.targets.mcu.target:CortexM55",
    "rv32imc": "edgedl.targets.mcu.target:Rv32imc",
    "stm32f4": "edgedl.targets.mcu.target:Stm32F4",
    "stm32l4": "edgedl.targets.mcu.target:Stm32L4",
    "stm32h7": "edgedl.targets.mcu.target:Stm32H7",
    "nrf52840": "edgedl.targets.mcu.target:Nrf52840",
    "rp2040": "edgedl.targets.mcu.target:Rp2040",
    "esp32c3": "edgedl.targets.mcu.target:Esp32C3",
    "apollo4": "edgedl.targets.mcu.target:Apollo4",
    "m55": "edgedl.targets.mcu.target:M55",
}
