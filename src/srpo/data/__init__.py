"""Recorded data: one `Dataset` from a built-in name, a file, a D4RL id or arrays. Imports no JAX by itself."""

from srpo.data.checks import DataError, check_environment
from srpo.data.dataset import Dataset
from srpo.data.load import from_arrays, load_dataset

__all__ = ["DataError", "Dataset", "check_environment", "from_arrays", "load_dataset"]
