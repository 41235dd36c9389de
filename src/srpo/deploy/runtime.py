"""The policy in a file, acting with NumPy alone: no JAX, no srpo beyond this folder, no code in the file."""

from __future__ import annotations

import json
import math
import os
from typing import Any

import numpy as np

from srpo.deploy.graph import DeployError, Network
from srpo.deploy.safety import Support
from srpo.system.files import read_bytes
from srpo.text import plain

FORMAT = "srpo-policy"
HEADER, ARRAYS = 16 << 20, 1000  # bytes of the header and number of arrays that a file may have
BETAS = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max)  # of which float32 has a logarithm
VERSION = 3  # 2: with a dial; 3: gelu, or actions that are clipped


def version(network: Network) -> str:
    """The least version of this format that can hold a network."""
    if network.activation == "gelu" or network.squash != "tanh":
        return "3"
    return "1" if network.dial is None else "2"


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """float32 arrays and metadata of a safetensors file: the length of a JSON header (8 bytes), the header, raw data.

    Raises DeployError if the file is missing, damaged, or holds another type.
    """
    try:
        raw = read_bytes(path)
    except OSError as e:
        raise DeployError(f"cannot read {path}: {e.strerror}; give a file that `srpo export` wrote") from None
    try:
        size = int.from_bytes(raw[:8], "little")
        if size > min(HEADER, len(raw) - 8):
            raise ValueError(f"a header of {size} bytes")
        header = json.loads(raw[8 : 8 + size], object_pairs_hook=_unique)
        info = dict(header.pop("__metadata__", {}))
        if not all(isinstance(value, str) for value in info.values()):
            raise ValueError("metadata that is no text")
        return _tensors(header, memoryview(raw)[8 + size :]), info
    except (ValueError, TypeError, AttributeError, KeyError, MemoryError, RecursionError) as e:
        raise DeployError(f"{path} is not a policy in safetensors, or is damaged ({plain(e, 200)}); export again") from None


def _tensors(header: dict[str, Any], data: memoryview) -> dict[str, np.ndarray]:
    """The arrays, which must follow each other without gap or overlap."""
    if len(header) > ARRAYS:
        raise ValueError(f"{len(header)} arrays")
    out, at = {}, 0
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        start, stop = entry["data_offsets"]
        shape = entry["shape"]
        if entry["dtype"] != "F32" or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError(f"{name} is {entry['dtype']} of shape {shape}")
        if start != at or stop - start != 4 * math.prod(shape) or stop > len(data):
            raise ValueError(f"{name} at {start}:{stop} of {len(data)} bytes")
        out[name], at = np.frombuffer(data[start:stop], "<f4").reshape(shape).copy(), stop
    if at != len(data):
        raise ValueError(f"{len(data) - at} bytes after the arrays")
    return out


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name twice")
    return found


def _contract(path: str | os.PathLike, meta: dict[str, str], network: Network) -> dict[str, Any]:
    """The contract in the file, empty if there is none. Raises DeployError if it is that of another policy."""
    try:
        found = json.loads(meta.get("contract", "{}"))
        if not isinstance(found, dict):
            raise ValueError("it is no object")
        if found.get("output"):
            signals = found["output"]["signals"]
            bounds = [[signal[name] for signal in signals] for name in ("low", "high")]
            if bounds != [network.low.tolist(), network.high.tolist()] or found["input"]["shape"][1] != network.obs_size:
                raise ValueError("its sizes or bounds are not those of the policy")
    except (ValueError, TypeError, KeyError, IndexError, RecursionError) as e:
        raise DeployError(f"{path}: its contract is damaged ({plain(e, 200)}); export again") from None
    return found


def _golden(found: dict[str, np.ndarray], network: Network) -> tuple[np.ndarray | None, ...]:
    """Observations, betas and actions to test with, each None if the file has none. Raises DeployError for other shapes."""
    obs, beta, action = (found.get(f"golden.{name}") for name in ("obs", "beta", "action"))
    if obs is None and beta is None and action is None:
        return None, None, None
    n = -1 if obs is None or obs.ndim == 0 else len(obs)
    wanted: dict[str, tuple[int, ...]] = {"obs": (n, network.obs_size), "action": (n, network.action_size)}
    wanted |= {} if network.dial is None else {"beta": (n,)}
    for name, array in (("obs", obs), ("beta", beta), ("action", action)):
        if (None if array is None else array.shape) != wanted.get(name) or (array is not None and not np.isfinite(array).all()):
            shape = "nothing" if array is None else f"shape {array.shape}"
            raise DeployError(
                f"golden.{name}: found {shape}, expected finite numbers of shape {wanted.get(name)}; export again"
            )
    return obs, beta, action


class Policy:
    """A policy that `srpo export` wrote as policy.safetensors. Raises DeployError for any other file.

    `info` is the contract that was known when it was written, `support` where its data was, or None.
    """

    def __init__(self, path: str | os.PathLike):
        found, meta = read_tensors(path)
        if meta.get("format") != FORMAT:
            raise DeployError(f"{path} holds no policy; give a policy.safetensors that `srpo export` wrote")
        if meta.get("version", "") not in map(str, range(1, VERSION + 1)):
            raise DeployError(f"{path} has version {meta.get('version')!r}, this srpo reads up to {VERSION}; update srpo")
        self.network = Network.from_tensors(found, meta.get("activation", ""), meta.get("squash", "tanh"))
        self.support = Support.from_tensors(found, self.network.obs_size)
        self.golden = _golden(found, self.network)
        self.info: dict[str, Any] = _contract(path, meta, self.network)
        self.obs_size, self.action_size = self.network.obs_size, self.network.action_size
        self.low, self.high = self.network.low, self.network.high

    def act(self, obs: np.ndarray, beta: float | np.ndarray | None = None) -> np.ndarray:
        """Actions (..., act), float32, of observations (..., obs): one, a batch, or any leading axes.

        `beta`: the temperature of a policy with a dial, one number or (...); beyond the range the nearest end acts. Raises
        DeployError if the observations are not floating-point numbers, have another size, are not finite or too large, and for a beta
        that is not above zero, of another shape, or that the policy does not know.
        """
        obs = self.check(obs)
        action = self.forward(obs, self.check_beta(beta, obs.shape[:-1]))
        if not np.isfinite(action).all():
            raise DeployError(
                f"found an observation up to {np.abs(obs).max():.3g}, with which the network leaves float32; check the sensor"
            )
        return action

    def forward(self, obs: np.ndarray, beta: float | np.ndarray | None = None) -> np.ndarray:
        """`act` without any check."""
        with np.errstate(over="ignore", invalid="ignore"):
            return self.network.forward(obs, beta)

    def check_beta(self, beta: float | np.ndarray | None, lead: tuple[int, ...] = ()) -> np.ndarray | None:
        """The temperature as float32, for observations with these leading axes. Raises DeployError as `act` does."""
        if beta is None:
            return None
        if self.network.dial is None:
            raise DeployError(f"found beta {beta}, but the policy has no dial; train one with --algo srpo-dial")
        try:
            found = np.asarray(beta, np.float64)
        except (TypeError, ValueError):
            found = np.full((), np.nan)
        if not (np.isfinite(found).all() and (found > 0).all()):
            low, high = self.network.beta_range
            raise DeployError(f"found beta {beta}, expected a number above zero, from {low:.3g} to {high:.3g}")
        if found.shape not in ((), lead):
            raise DeployError(
                f"found beta of shape {found.shape}, expected one number{f' or one per observation, {lead}' if lead else ''}"
            )
        return np.clip(found, *BETAS).astype(np.float32)

    def check(self, obs: np.ndarray, finite: bool = True) -> np.ndarray:
        """The observations as float32. Raises DeployError as `act` does."""
        try:
            obs = np.asarray(obs)
        except ValueError:
            raise DeployError(f"found observations of different lengths, expected (batch, {self.obs_size})") from None
        if obs.dtype.kind != "f":
            raise DeployError(
                f"found observations of type {obs.dtype}, expected floating-point numbers; convert with astype('float32')"
            )
        if obs.shape[-1:] != (self.obs_size,):
            raise DeployError(
                f"found observations of shape {obs.shape}, expected ({self.obs_size},) or (batch, {self.obs_size})"
            )
        if obs.dtype != np.float32:
            with np.errstate(over="ignore"):  # too large for float32 becomes infinite, which is then refused
                obs = obs.astype(np.float32)
        if finite and not np.isfinite(obs).all():
            i = tuple(int(k) for k in np.argwhere(~np.isfinite(obs))[0])
            raise DeployError(f"obs[{', '.join(map(str, i))}] is {obs[i]}, expected finite numbers; check the sensor")
        return obs

    def self_test(self, tolerance: float | None = None) -> float:
        """The largest error, as a share of half the action's range, on the observations that came with the file.

        Raises DeployError if it exceeds `tolerance` (1e-5, and four times what float32 rounding costs there) or the file has
        none: run it once on every target.
        """
        obs, beta, action = self.golden
        if obs is None or action is None or len(obs) == 0:
            raise DeployError("the file holds no observations to test with; export again")
        error = float((np.abs(self.act(obs, beta) - action) / self.network.half).max())
        rows = obs if beta is None else np.column_stack([obs, beta])
        tolerance = self.network.tolerance(rows) if tolerance is None else tolerance
        if not error <= tolerance:
            raise DeployError(f"actions differ by {error:.3g} from those recorded at export, expected at most {tolerance:g}")
        return error
