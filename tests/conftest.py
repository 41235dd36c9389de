"""Compilation dominates the tests: cheap code generation, and programs that two tests share are compiled once.

Where arrays are computed, the shapes in the annotations are checked at every call while the tests run.
"""

import os
import sys
import tempfile
from pathlib import Path
from types import ModuleType

from beartype import BeartypeConf, beartype
from jaxtyping import install_import_hook

CHEAP = "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false --xla_llvm_disable_expensive_passes=true"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {CHEAP}"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"srpo-tests-{os.getuid()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

HOME = Path(__file__).parent.parent / "src" / "srpo"
ROOMS = ["core", "losses", "policies", "networks", "diffusion", "stages", "data.views", "data.treated"]
ROOMS += [f"algorithms.{file.stem}" for file in (HOME / "algorithms").glob("[a-z]*.py")]

sys.modules["shape_check"] = ModuleType("shape_check")
sys.modules["shape_check"].check = beartype(conf=BeartypeConf(is_pep484_tower=True))  # a whole number is a float, too
install_import_hook([f"srpo.{room}" for room in ROOMS], "shape_check.check")
