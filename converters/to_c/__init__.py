"""Firmware: an int8 .tflite as plain C, specialised to its shapes, with its memory planned to the byte."""
