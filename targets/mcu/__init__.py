"""Microcontrollers: C firmware built for a core, run in an emulator of it, its instructions counted exactly."""
