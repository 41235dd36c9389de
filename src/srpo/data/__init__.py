"""Recorded data: one `Dataset` from a built-in name, a file, a D4RL id or arrays. Imports no JAX by itself."""

from srpo.data.checks import DataError
from srpo.data.load import from_arrays, load_dataset
from srpo.data.recording import Dataset

__all__ = ["DataError", "Dataset", "from_arrays", "load_dataset"]
