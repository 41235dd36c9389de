"""Checkpoints of the authors' PyTorch code as networks and runs of this library, without PyTorch."""

from srpo.convert.official import official
from srpo.convert.run import official_run

__all__ = ["official", "official_run"]
