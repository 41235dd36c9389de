"""A policy as plain arrays: what every file format is written from. Imports only NumPy."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from srpo.errors import UserError


class DeployError(UserError):
    """A file, policy or observation that cannot be used; the message says what was found, expected and to do."""


ACTIVATIONS = ("relu", "mish", "tanh", "gelu")
SQUASHES = ("tanh", "clip")
GELU = 2 * (2 / math.pi) ** 0.5, 0.044715  # x sigmoid(a (x + b x^3)): the usual approximation, which papers' codes take
TOLERANCE = 1e-5  # of half the range of an action
COARSE = 1e-3  # of half the range of an action: the largest step of float32 that may pass for its rounding
LAYER = "layers.{}.{}"


def tolerated(rounding: float) -> float:
    """The largest error where float32 itself makes that of `rounding`: both sides round, each in its own order of sums.

    That of the actions' own units is no large part of it: `Network` refuses bounds that float32 is coarse beside.
    """
    return TOLERANCE + 4 * rounding


@dataclass(frozen=True, eq=False)
class Network:
    """squash(MLP((obs - mean) / std)) moved from [-1, 1] to [low, high]; float32, weights of shape (in, out).

    With a dial the MLP has one more input, after the others: log beta, less `dial[0]`, divided by `dial[1]`, clipped to
    +- 1. `dial[2]` is the beta at which it acts unless told. Rows are observations, with a dial followed by beta.
    """

    mean: np.ndarray  # (obs,)
    std: np.ndarray  # (obs,)
    layers: tuple[tuple[np.ndarray, np.ndarray], ...]  # (weight, bias) from input to output
    activation: str  # between layers, one of ACTIVATIONS
    low: np.ndarray  # (act,) where the policy's own action is -1
    high: np.ndarray  # (act,) where it is 1
    dial: np.ndarray | None = None  # (3,) center and half-width of log beta, and the default beta
    squash: str = "tanh"  # of the last layer, one of SQUASHES

    def __post_init__(self):
        for what, found, known in (("activation", self.activation, ACTIVATIONS), ("squash", self.squash, SQUASHES)):
            if found not in known:
                raise DeployError(f"found {what} {found!r}, expected one of {', '.join(known)}")
        for name, array in self.tensors().items():
            rank = 2 if name.endswith(".weight") else 1
            if array.ndim != rank:
                raise DeployError(f"{name} of the policy has shape {array.shape}, expected {rank} dimensions")
            if not np.isfinite(array).all():
                raise DeployError(f"{name} of the policy is not finite, so its training failed; choose another seed or point")
        for name, found, wanted in self._shapes():
            if found != wanted:
                raise DeployError(f"{name} of the policy has shape {found}, expected {wanted}")
        self._require_bounds()
        if not (self.std > 0).all() or (self.dial is not None and not (self.dial[1:] > 0).all()):
            raise DeployError("the policy divides by a deviation that is not above zero; export again")

    def _require_bounds(self) -> None:
        """Raises DeployError unless the bounds of every action are two, and float32 holds what lies between them."""
        with np.errstate(over="ignore"):
            half = self.half
            step = np.spacing(np.maximum(np.abs(self.low), np.abs(self.high)).astype(np.float32))
        for good, wanted in (
            (self.low < self.high, "expected low below high; export again"),
            (np.isfinite(half), "which stands for no bounds at all; train again with the action_range that is meant"),
            (
                step <= COARSE * half,
                "expected steps of float32, the type of every exported file, below a thousandth of half the range; record it less a "
                "fixed offset and train again",
            ),
        ):
            if not good.all():
                at = int(np.argmin(good))
                raise DeployError(f"action {at} is bounded by {self.low[at]:.9g} and {self.high[at]:.9g}, {wanted}")

    def _shapes(self):
        n = self.obs_size
        yield from (("mean", self.mean.shape, (n,)), ("std", self.std.shape, (n,)))
        if self.dial is not None:
            yield "dial", self.dial.shape, (3,)
        n = self.layers[0][0].shape[0]
        for i, (weight, bias) in enumerate(self.layers):
            yield LAYER.format(i, "weight"), weight.shape, (n, *weight.shape[1:2])
            n = weight.shape[-1]
            yield LAYER.format(i, "bias"), bias.shape, (n,)
        yield from (("low", self.low.shape, (n,)), ("high", self.high.shape, (n,)))

    @cached_property
    def half(self) -> np.ndarray:
        """(act,) half of the range of each action."""
        return (self.high - self.low) / 2

    @cached_property
    def rescales(self) -> bool:
        """False where the actions stay in [-1, 1]."""
        return bool((self.low != -1).any() or (self.high != 1).any())

    @property
    def obs_size(self) -> int:
        return self.layers[0][0].shape[0] - (self.dial is not None)

    @property
    def action_size(self) -> int:
        return self.layers[-1][1].shape[0]

    @property
    def hidden(self) -> tuple[int, ...]:
        return tuple(bias.shape[0] for _, bias in self.layers[:-1])

    @property
    def known_dial(self) -> np.ndarray:
        """`dial` of a policy that has one. Raises DeployError."""
        if self.dial is None:
            raise DeployError("this policy has no dial")
        return self.dial

    @property
    def beta_range(self) -> tuple[float, float]:
        """The smallest and the largest beta of the dial."""
        low, high = np.exp(self.known_dial[0] + self.known_dial[1] * np.array([-1, 1]))
        return float(low), float(high)

    def split(self, rows):
        """Observations (..., obs) and beta (...), or None without a dial, of rows."""
        return (rows, None) if self.dial is None else (rows[..., :-1], rows[..., -1])

    @cached_property
    def normalizes(self) -> bool:
        """False where the normalization is the identity, so that no format has to compute it."""
        return bool((self.mean != 0).any() or (self.std != 1).any())

    def tensors(self) -> dict[str, np.ndarray]:
        """All arrays by name, as they are called in the files."""
        out = {"mean": self.mean, "std": self.std}
        for i, (weight, bias) in enumerate(self.layers):
            out |= {LAYER.format(i, "weight"): weight, LAYER.format(i, "bias"): bias}
        return out | {"low": self.low, "high": self.high} | ({} if self.dial is None else {"dial": self.dial})

    @classmethod
    def from_tensors(cls, found: Mapping[str, np.ndarray], activation: str, squash: str = "tanh") -> Network:
        """What `tensors` gave. Raises DeployError if an array is missing or has another shape."""
        n = sum(name.startswith("layers.") and name.endswith(".weight") for name in found)
        try:
            layers = tuple((found[LAYER.format(i, "weight")], found[LAYER.format(i, "bias")]) for i in range(n))
            rest = (found[name] for name in ("mean", "std", "low", "high"))
        except KeyError as e:
            raise DeployError(f"found no array {e}, expected a file that `srpo export` wrote; export again") from None
        if not layers:
            raise DeployError("found no layers, expected a file that `srpo export` wrote; export again")
        mean, std, low, high = rest
        return cls(mean, std, layers, activation, low, high, found.get("dial"), squash)

    def astype(self, kind) -> Network:
        """The same network in another precision."""
        return Network.from_tensors(
            {name: array.astype(kind) for name, array in self.tensors().items()}, self.activation, self.squash
        )

    def forward(self, obs, beta=None, xp=np):
        """Actions (..., act) of observations (..., obs) at `beta` (...), computed by NumPy or by `xp=jax.numpy`."""
        x = (obs - self.mean) / self.std if self.normalizes else obs
        if self.dial is not None:
            center, half, default = self.dial
            turn = xp.clip((xp.log(default if beta is None else beta) - center) / half, -1, 1)
            x = xp.concatenate([x, xp.broadcast_to(xp.asarray(turn)[..., None], (*x.shape[:-1], 1)).astype(x.dtype)], -1)
        for weight, bias in self.layers[:-1]:
            x = activate(self.activation, x @ weight + bias, xp)
        weight, bias = self.layers[-1]
        x = x @ weight + bias
        return self.bound(xp.tanh(x) if self.squash == "tanh" else x, xp)

    def rounding(self, rows: np.ndarray) -> float:
        """The largest error that float32 itself makes on rows (B, ...), as a share of half the action's range."""
        exact = self.astype(np.float64).forward(*self.split(rows.astype(np.float64)))
        return float((np.abs(self.forward(*self.split(rows)) - exact) / self.half).max(initial=0.0))

    def tolerance(self, rows: np.ndarray) -> float:
        """How far from this network another implementation may be on rows, as a share of half the action's range."""
        return tolerated(self.rounding(rows))

    def bound(self, action, xp=np):
        """From [-1, 1] to the bounds, and never beyond them."""
        if self.rescales:
            action = self.low + (action + 1) * self.half
        return xp.minimum(xp.maximum(action, self.low), self.high)


def every(act: Callable[[np.ndarray], np.ndarray], obs: np.ndarray) -> np.ndarray:
    """Actions (..., act) of observations (..., obs), by an `act` that takes (B, obs) float32 only."""
    obs = np.asarray(obs)
    actions = act(np.ascontiguousarray(obs.reshape(math.prod(obs.shape[:-1]), obs.shape[-1]), np.float32))
    return actions.reshape(*obs.shape[:-1], actions.shape[-1])


def activate(name: str, x, xp=np):
    """One of ACTIVATIONS; mish is x tanh(softplus(x)), written with one exponential as in `srpo.networks.derivatives`."""
    if name == "relu":
        return xp.maximum(x, 0)
    if name == "tanh":
        return xp.tanh(x)
    if name == "gelu":
        a, b = GELU
        return x * 0.5 * (1 + xp.tanh(a / 2 * (x + b * x**3)))
    e = xp.exp(xp.minimum(x, 20))
    n = e * (e + 2)
    return x * (n / (n + 2))
