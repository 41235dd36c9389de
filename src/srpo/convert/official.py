"""The authors' behavior model and critic (PyTorch, thu-ml/SRPO) as ours.

Their modules differ from ours in nothing but names and two orders: PyTorch keeps the weight of a layer as
(out, in), and their Q takes [action, obs] where ours takes [obs, action]. The behavior model takes
[action, obs, time] in both. Their files hold more than is computed with: each residual block has a `residual`
layer that only blocks of unequal sizes would use, and the behavior's file may hold other modules.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np

from srpo.convert.torch_file import read_tensors
from srpo.diffusion.parametrization import NoisePrediction
from srpo.diffusion.schedules import VP
from srpo.networks.layers import QEnsemble, ValueNet
from srpo.networks.score import ResNetStyle, ScoreResNet
from srpo.runs.checkpoint import CheckpointError, flatten
from srpo.stages.iql_critic import Critic

T = TypeVar("T")
Tensors = Mapping[str, np.ndarray]

PREFIX = "diffusion_behavior."
TIME = 64  # features of time; the embedding has twice as many, in their code and in ours
UNUSED = re.compile(r"main\.blocks\.\d+\.residual\.(weight|bias)")
NAMES = (  # ours -> theirs; a layer of an MLP is every second module of theirs
    (r"net\.fourier\.frequency\.value", lambda m: "embed.0.W"),
    (r"net\.embed\.layers\.(\d+)\.(\w+)", lambda m: f"cond_model.{2 * int(m[1])}.{m[2]}"),
    (r"net\.first\.(\w+)", lambda m: f"main.fc.{m[1]}"),
    (r"net\.blocks\.(\d+)\.norm\.(\w+)", lambda m: f"main.blocks.{m[1]}.layer_norm.{m[2].replace('scale', 'weight')}"),
    (r"net\.blocks\.(\d+)\.expand\.(\w+)", lambda m: f"main.blocks.{m[1]}.fc1.{m[2]}"),
    (r"net\.blocks\.(\d+)\.contract\.(\w+)", lambda m: f"main.blocks.{m[1]}.fc2.{m[2]}"),
    (r"net\.last\.(\w+)", lambda m: f"main.out_fc.{m[1]}"),
    (r"q(_target)?\.members\.(\d+)\.layers\.(\d+)\.(\w+)", lambda m: f"q0{m[1] or ''}.q{int(m[2]) + 1}.{2 * int(m[3])}.{m[4]}"),
    (r"v\.net\.layers\.(\d+)\.(\w+)", lambda m: f"vf.v.{2 * int(m[1])}.{m[2]}"),
)


def official(behavior: str | Path, critic: str | Path) -> dict[str, Any]:
    """`{"behavior": ..., "critic": ...}` from the authors' files, such as behavior_ckpt200.pth and critic_ckpt150.pth.

    `behavior(x_t, t, obs)` is the predicted noise (B, act); `critic.q(obs, action)` and `critic.q_target(obs, action)`
    have shape (2, B), `critic.v(obs)` (B,). Sizes are read off the files. Raises CheckpointError for a file that is
    damaged, holds anything but tensors or other networks, and for files of different sizes.
    """
    noise, value = _read_behavior(Path(behavior)), _read_critic(Path(critic))
    if sizes(noise) != sizes(value):
        found = f"{behavior} has (observations, actions) of sizes {sizes(noise)}, {critic} of {sizes(value)}"
        raise CheckpointError(f"{found}; give two files of one task")
    return {"behavior": noise, "critic": value}


def sizes(model: NoisePrediction[VP] | Critic[ValueNet]) -> tuple[int, int]:
    """Of observations and of actions."""
    if isinstance(model, Critic):
        obs, both = model.v.net.n_in, model.q.members[0].n_in
        return obs, both - obs
    assert isinstance(model.net, ScoreResNet)
    inputs, act = model.net.first.n_in, model.net.action_size
    return inputs - act - 2 * TIME, act


def _read_behavior(path: Path) -> NoisePrediction[VP]:
    tensors = {k.removeprefix(PREFIX): x for k, x in read_tensors(path).items() if k.startswith(PREFIX)}
    if not tensors:
        raise CheckpointError(f"{path} has no {PREFIX}*, so it is not a behavior model; give behavior_ckpt*.pth")
    tensors = {k: x for k, x in tensors.items() if not UNUSED.fullmatch(k)}
    (act, width), (_, inputs) = (_matrix(path, tensors, f"main.{layer}.weight") for layer in ("out_fc", "fc"))
    obs, blocks = inputs - act - 2 * TIME, _count(tensors, r"main\.blocks\.(\d+)\..*")
    if obs < 1:
        raise CheckpointError(f"{path}: the {inputs} inputs of main.fc leave none for observations; give behavior_ckpt*.pth")
    style = ResNetStyle(time_size=TIME)
    shaped = jax.eval_shape(lambda: NoisePrediction(ScoreResNet(obs, act, jax.random.key(0), width, blocks, style=style), VP()))
    return _filled(path, shaped, tensors, {})


def _read_critic(path: Path) -> Critic:
    tensors = read_tensors(path)
    if not any(k.startswith("q0.") for k in tensors):
        raise CheckpointError(f"{path} has no q0.*, so it is not a critic; give critic_ckpt*.pth")
    hidden = {of: _hidden(path, tensors, of) for of in ("q0.q1", "vf.v")}
    obs, both = (_matrix(path, tensors, f"{of}.0.weight")[1] for of in ("vf.v", "q0.q1"))
    if both <= obs:
        raise CheckpointError(
            f"{path}: the {both} inputs of Q, {obs} of them observations, leave none for actions; give critic_ckpt*.pth"
        )

    def build(key):
        q = QEnsemble(obs, both - obs, hidden["q0.q1"], key)
        return Critic(q, q, ValueNet(obs, hidden["vf.v"], key))

    first = {f"{q}.q{i}.0.weight": -(both - obs) for q in ("q0", "q0_target") for i in (1, 2)}
    return _filled(path, jax.eval_shape(build, jax.random.key(0)), tensors, first)


def _count(tensors: Tensors, pattern: str) -> int:
    """The number of layers whose index `pattern` finds."""
    return len({m[1] for m in (re.fullmatch(pattern, name) for name in tensors) if m})


def _hidden(path: Path, tensors: Tensors, of: str) -> tuple[int, ...]:
    """The widths of the hidden layers of a network."""
    layers = _count(tensors, re.escape(of) + r"\.(\d+)\.weight")
    return tuple(_matrix(path, tensors, f"{of}.{2 * i}.weight")[0] for i in range(layers - 1))


def _find(path: Path, tensors: Tensors, name: str) -> np.ndarray:
    if name not in tensors:
        raise CheckpointError(f"{path}: {name} is missing; give the file that the authors' code wrote for this network")
    return tensors[name]


def _matrix(path: Path, tensors: Tensors, name: str) -> tuple[int, int]:
    shape = _find(path, tensors, name).shape
    if len(shape) != 2:
        raise CheckpointError(f"{path}: {name} has shape {shape}, expected two axes")
    return shape


def _theirs(ours: str) -> str:
    found = ((re.fullmatch(pattern, ours), name) for pattern, name in NAMES)
    return next(name(m) for m, name in found if m)


def _filled(path: Path, shaped: T, tensors: Tensors, roll: Mapping[str, int]) -> T:
    """`shaped` with the tensors of the file; the inputs of the layers in `roll` are rotated by that many rows."""
    leaves, used = [], set()
    for ours, leaf in flatten(shaped).items():
        name = _theirs(ours)
        x = _find(path, tensors, name)
        x = x.T if x.ndim == 2 else x
        if x.shape != leaf.shape or not np.issubdtype(x.dtype, np.floating):
            wanted = f"found {x.dtype.name}{list(x.T.shape)}, expected floats{list(leaf.shape[::-1])}"
            raise CheckpointError(f"{path}: {name}: {wanted}; give an unchanged file of the authors' code")
        with np.errstate(over="ignore"):
            x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; give the file of a training that did not fail")
        leaves.append(jax.device_put(np.roll(x, roll.get(name, 0), axis=0)))
        used.add(name)
    if extra := sorted(tensors.keys() - used):
        raise CheckpointError(f"{path}: {extra[0]} is unknown here; give an unchanged file of the authors' code")
    return jax.tree.unflatten(jax.tree.structure(shaped), leaves)
