"""Firmware: an int8 .tflite as plain C, specialised to its shapes, with its memory planned to the byte."""

from .firmware import Firmware, LayerCall, Place, firmware

__all__ = ["Firmware", "LayerCall", "Place", "firmware"]
