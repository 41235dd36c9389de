"""Compilation dominates the tests: cheap code generation, and programs that two tests share are compiled once."""

import functools
import gc
import os
from importlib import metadata

import pytest

CHEAP = "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
if tuple(map(int, metadata.version("jaxlib").split(".")[:2])) < (0, 11):  # a flag that XLA does not know ends the process
    CHEAP += " --xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {CHEAP}"
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "0")  # code this cheap is made faster than it is written and read
os.environ.setdefault("JAX_TRACEBACK_IN_LOCATIONS_LIMIT", "0")  # which line made an operation is written beside each of them
os.environ.setdefault("JAX_INCLUDE_FULL_TRACEBACKS_IN_LOCATIONS", "0")


def pytest_configure(config):
    """Tracing makes millions of small objects that live: looking through all of them again and again took a tenth of the time."""
    gc.set_threshold(100_000, 50, 50)


LONGEST = (
    "contract",
    "baselines",
    "training",
    "dtql",
    "diffuser",
    "no_simulator",
    "paper_command",
    "idql",
    "devices",
    "judging",
    "shapes",
)


def pytest_collection_modifyitems(items):
    """The longest files first: a process that begins one of them last would be waited for."""
    rank = {f"test_{name}": i for i, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.stem, len(rank)))


def pytest_collection_finish(session):
    gc.freeze()  # what was imported stays


def pytest_unconfigure(config):
    gc.freeze()  # and what was made ends with the process: nobody looks through it for circles once more


@pytest.fixture(scope="session", autouse=True)
def _once():
    """No curves at the end of each training, which take half a second of a core: test_training.py draws them.

    And what is installed is looked through once, not for every file of data.
    """
    from srpo.training import progress

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(progress, "draw_curves", lambda run: None)
        patch.setattr(metadata, "entry_points", functools.cache(metadata.entry_points))
        yield
