"""contract.json: what somebody who has only the files must know to use them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np

from srpo.deploy.bundle import Bundle
from srpo.deploy.graph import DeployError, Network
from srpo.deploy.safety import Support
from srpo.deploy.signals import Signal
from srpo.system.files import read_bytes
from srpo.system.strict_json import finite
from srpo.text import plain

FORMAT = 1
LARGEST = 64 << 20  # bytes of a contract


def static(
    network: Network, support: Support | None, info: dict[str, Any], signals: tuple[list[Signal], list[Signal]]
) -> dict[str, Any]:
    """What is known before anything is written; it goes into the files, too."""
    bounds = zip(network.low.tolist(), network.high.tolist(), strict=True)
    outputs = [signal | {"low": low, "high": high} for signal, (low, high) in zip(signals[1], bounds, strict=True)]
    inputs = [dict(signal) for signal in signals[0]]
    if support is not None:
        for signal, low, high in zip(inputs, support.low.tolist(), support.high.tolist(), strict=True):
            signal |= {"data_low": low, "data_high": high}
    net = {
        "hidden": list(network.hidden),
        "activation": network.activation,
        "normalizes": network.normalizes,
        "squash": network.squash,
    }
    known = {
        "format": FORMAT,
        **info,
        "input": {"name": "obs", "type": "float32", "shape": ["batch", network.obs_size], "signals": inputs},
        **({} if network.dial is None else {"dial": _dial(network)}),
        "output": {
            "name": "action",
            "type": "float32",
            "shape": ["batch", network.action_size],
            "range": _range(network, info),
            "signals": outputs,
        },
        "network": net,
        "distance_limit": None if support is None else float(support.limit),
    }
    return finite(known)  # an episode's return may be none of the numbers of JSON


def _range(network: Network, info: dict[str, Any]) -> str:
    """In which units the actions are, and where their range is from."""
    data = info.get("data") or {}
    if found := data.get("action_range"):
        return f"the units that were recorded; low and high are {found['origin']}"
    if network.rescales and (env_id := data.get("env_id")):
        return f"the units and bounds of {env_id}, to which [-1, 1] of the data is mapped"
    if network.rescales:
        return "the policy's own units and bounds"
    return "[-1, 1], as recorded"


def _dial(network: Network) -> dict[str, Any]:
    low, high = network.beta_range
    meaning = (
        "temperature; larger: closer to argmax Q, smaller: closer to the behavior's mode; beyond the range the nearest end acts"
    )
    known = {"low": low, "high": high, "default": float(network.known_dial[2]), "meaning": meaning}
    return {"name": "beta", "type": "float32", "shape": ["batch", 1], **known}


def complete(bundle: Bundle, parity: dict[str, Any], latency: list[dict[str, Any]], files: dict[str, Path]) -> dict[str, Any]:
    """The whole contract; `files`: the written files by the names that they will have."""
    obs, beta = bundle.network.split(np.asarray(bundle.golden[0]))
    golden = {"obs": obs.tolist(), "action": np.asarray(bundle.golden[1]).tolist()} | (
        {} if beta is None else {"beta": beta.tolist()}
    )
    return bundle.contract | {
        "parity": parity,
        "latency": latency,
        "files": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items()},
        "golden": golden,
    }


def about(run: Any, seed: int, point: dict[str, float], step: int) -> dict[str, Any]:
    """The origin of a policy of a `srpo.Run`, as it was after `step` steps of the last stage."""
    settings = run.info["settings"] | point
    data = {
        key: run.info["data"].get(key)
        for key in (
            "name",
            "source",
            "sha256",
            "rows",
            "env_id",
            "reference",
            "obs_deviation",
            "action_range",
            "labels",
            "reward",
        )
    }
    return {
        "algorithm": run.info["algorithm"],
        "settings": settings,
        "seed": seed,
        "step": step,
        "data": data,
        "expected": expected(run, seed, point, step),
        "trained": {"created": run.info["created"], "device": run.info["device"], "versions": run.info["versions"]},
    }


def expected(run: Any, seed: int, point: dict[str, float], step: int) -> dict[str, Any] | None:
    """Return and normalized score of the episodes that `srpo eval` kept, else of those in training, at this step."""
    from srpo.evaluation.scores import evals_table

    if not (run.path / "evals.csv").exists():
        return None
    rows = [r for r in evals_table(run).read() if int(r["seed"]) == seed and int(r["step"]) == step]
    mine = [r for r in rows if all(float(r[p]) == v for p, v in point.items())]
    chosen = [r for r in mine if r["kind"] != "training"] or mine
    if not chosen:
        return None
    returns = np.array([float(r["return"]) for r in chosen])
    scores = [float(r["score"]) for r in chosen if r["score"]]
    score = {"mean_score": float(np.mean(scores)), "std_score": float(np.std(scores))} if scores else {}
    spread = {"mean_return": float(returns.mean()), "std_return": float(returns.std())}
    made_with = {key: chosen[0][key] for key in ("env_id", "gymnasium", "mujoco")}
    return {"episodes": len(chosen), **spread, **score, **made_with}


class Contract(msgspec.Struct):
    """What is read of a contract; the rest is for people."""

    format: Annotated[int, msgspec.Meta(ge=1, le=FORMAT)]
    files: dict[str, Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}$")]]
    input: dict[str, Any]
    output: dict[str, Any]


def require_vouched(folder: Path) -> None:
    """Raises DeployError unless the contract in the folder of an export is sound, and every policy there is one that it knows."""
    path = folder / "contract.json"
    try:
        known = msgspec.convert(json.loads(read_bytes(path, LARGEST)), Contract).files
    except OSError as e:
        raise DeployError(f"cannot read {path} ({e.strerror}); give a folder that `srpo export` wrote") from None
    except (ValueError, RecursionError) as e:
        raise DeployError(f"{path} is damaged ({plain(e, 200)}); export again") from None
    for file in sorted(folder.glob("policy.*")):
        if file.suffix in (".onnx", ".safetensors", ".c") and _hash(file) != known.get(file.name):
            raise DeployError(f"{file} is not the file that its contract knows (its hash differs); export again")


def _hash(file: Path) -> str:
    try:
        return hashlib.sha256(read_bytes(file)).hexdigest()
    except OSError as e:
        raise DeployError(f"cannot read {file} ({e.strerror}); export again") from None
