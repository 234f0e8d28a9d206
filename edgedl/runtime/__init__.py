"""What a device application imports: `load` an artifact and `run` it. numpy and one interpreter, nothing else."""

from .net import Net, load

__all__ = ["Net", "load"]
