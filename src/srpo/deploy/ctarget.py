"""policy.c on this machine: compiled with the machine's own compiler and called through the harness beside it."""

from __future__ import annotations

import ctypes
import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from srpo.deploy.graph import DeployError, every

HARNESS = Path(__file__).with_name("c") / "harness.c"
WARNINGS = ("-Wall", "-Wextra", "-Werror", "-pedantic")
PLAIN, NATIVE = ("-O2",), ("-O3", "-march=native")
FLOATS, DOUBLES = (np.ctypeslib.ndpointer(kind, flags="C") for kind in (np.float32, np.float64))


def compiler() -> list[str]:
    """$CC, or the first of cc, gcc, clang. Raises DeployError if there is none."""
    if chosen := os.environ.get("CC"):
        return shlex.split(chosen)
    for name in ("cc", "gcc", "clang"):
        if found := shutil.which(name):
            return [found]
    raise DeployError(
        "no C compiler (cc, gcc or clang; on Windows also one of these) is on PATH, so policy.c cannot be checked; install one, or leave out the format c"
    )


def builds() -> dict[str, tuple[str, ...]]:
    """Compiler flags by name: plain, and for this very processor where the compiler can."""
    command = [*compiler(), *NATIVE, "-x", "c", "-E", "-o", os.devnull, os.devnull]
    native = _run(command).returncode == 0
    return {f"c {' '.join(flags)}": flags for flags in ((PLAIN, NATIVE) if native else (PLAIN,))}


class CompiledPolicy:
    """policy.c as a shared library."""

    def __init__(self, source: Path, flags: tuple[str, ...] = PLAIN):
        """Raises DeployError with the compiler's first complaint."""
        self.dial = "policy_act_at" in source.read_text()
        with tempfile.TemporaryDirectory() as folder:
            library = Path(folder) / f"policy.{'dll' if os.name == 'nt' else 'so'}"
            known = (*flags, "-DPOLICY_DIAL") if self.dial else flags
            files = [_object(source, Path(folder), (*flags, *WARNINGS)), _object(HARNESS, Path(folder), known)]
            _call([*compiler(), "-shared", "-o", str(library), *files, "-lm"])
            self.library = _loaded(library)
        self.obs_size, self.action_size = self.library.policy_obs_size(), self.library.policy_act_size()
        self._harness = self.library.harness_act_at if self.dial else self.library.harness_act
        self._harness.argtypes = [FLOATS, ctypes.c_long, FLOATS]
        self.library.harness_time.argtypes = [FLOATS, ctypes.c_long, ctypes.c_long, ctypes.c_long, FLOATS, DOUBLES]

    def act(self, rows: np.ndarray) -> np.ndarray:
        """Actions (..., act) of observations (..., obs), with a dial each followed by beta.

        Raises DeployError for another size: C would read beyond the array.
        """
        if np.shape(rows)[-1:] != (self.obs_size + self.dial,):
            beta = " and beta" if self.dial else ""
            raise DeployError(f"found observations of shape {np.shape(rows)}, expected (..., {self.obs_size}{beta})")
        return every(self._act, rows)

    def _act(self, rows: np.ndarray) -> np.ndarray:
        action = np.empty((len(rows), self.action_size), np.float32)
        self._harness(rows, len(rows), action)
        return action

    def time(self, obs: np.ndarray, calls: int) -> np.ndarray:
        """Nanoseconds of each of `calls` calls, measured in C, with batches taken in turn from `obs` (n, batch, obs)."""
        n, batch, _ = obs.shape
        action, out = np.empty((batch, self.action_size), np.float32), np.empty(calls)
        self.library.harness_time(np.ascontiguousarray(obs, np.float32), n, batch, calls, action, out)
        return out


def _loaded(library: Path) -> ctypes.CDLL:
    try:
        return ctypes.CDLL(str(library))
    except OSError as e:  # a folder that is mounted noexec, as hardened machines do
        raise DeployError(
            f"the temporary folder {library.parent.parent} does not allow running programs ({e}); set TMPDIR to another, "
            "or leave out the format c"
        ) from None


def _object(source: Path, folder: Path, flags: tuple[str, ...]) -> str:
    out = folder / f"{source.stem}.o"
    _call([*compiler(), "-std=c99", "-fPIC", *flags, "-c", "-o", str(out), str(source)])
    return str(out)


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as e:
        raise DeployError(
            f"cannot run the C compiler {command[0]!r} ({e.strerror}); install one, or leave out the format c"
        ) from None


def _call(command: list[str]) -> None:
    done = _run(command)
    if done.returncode:
        complaint = next((line for line in done.stderr.splitlines() if "error" in line), done.stderr.strip()[:200])
        raise DeployError(f"{command[0]} does not compile {Path(command[-1]).name}: {complaint}; set CC to another compiler")
