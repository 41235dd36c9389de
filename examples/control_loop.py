"""A 1 kHz control loop around an exported policy, in a MuJoCo environment; counts missed deadlines.

    srpo export RUN --to robot/
    python examples/control_loop.py robot/policy.safetensors --env HalfCheetah-v4
    python examples/control_loop.py robot/policy.onnx --env HalfCheetah-v4 --rate 500 --seconds 30

Every tick observes, acts and steps the environment once, and must be done before the next one begins. The simulated time
of a step (50 ms in HalfCheetah) passes in one tick: what is tested is the loop's timing, not a robot in real time.
Needs NumPy and Gymnasium, and onnxruntime for .onnx; no JAX.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from srpo.deploy import Policy, SafePolicy
from srpo.worlds.environments import make_env

SPIN = 300_000  # nanoseconds before a deadline in which the loop no longer sleeps: waking up is not that exact
Act = Callable[[np.ndarray], np.ndarray]


def load(path: Path) -> tuple[Act, Callable[[], bool]]:
    """What acts, and what tells whether the last action was the fall-back."""
    if path.suffix == ".onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        dial = json.loads(session.get_modelmeta().custom_metadata_map["contract"]).get("dial")
        told = {} if dial is None else {"beta": np.full((1, 1), dial["default"], np.float32)}
        return lambda obs: session.run(None, {"obs": obs[None].astype(np.float32), **told})[0][0], lambda: False
    policy = Policy(path)
    policy.self_test()
    if policy.support is None:
        return policy.act, lambda: False
    safe = SafePolicy(policy)
    return safe.act, lambda: safe.reason is not None


def wait_until(deadline: int) -> None:
    while (left := deadline - time.perf_counter_ns()) > 0:
        if left > SPIN:
            time.sleep((left - SPIN) / 1e9)


def loop(path: Path, env_id: str, rate: float, seconds: float) -> dict[str, np.ndarray | int | list[float]]:
    """Nanoseconds of every action, step and tick, and the returns of the episodes that ended."""
    act, fell_back = load(path)
    env = make_env(env_id)
    ticks, period = int(seconds * rate), int(1e9 / rate)
    acting, stepping, whole = (np.zeros(ticks, np.int64) for _ in range(3))
    missed, far, total, returns, clock = 0, 0, 0.0, [], time.perf_counter_ns
    obs, _ = env.reset(seed=0)
    env.step(act(obs))  # whatever is slow the first time
    obs, _ = env.reset(seed=0)
    gc.collect()
    gc.disable()
    deadline = clock() + period
    for i in range(ticks):
        start = clock()
        action = act(obs)
        acted = clock()
        obs, reward, terminated, truncated, _ = env.step(action)
        total += reward
        far += fell_back()
        if terminated or truncated:
            returns.append(total)
            total, (obs, _) = 0.0, env.reset()
        stop = clock()
        acting[i], stepping[i], whole[i] = acted - start, stop - acted, stop - start
        if stop > deadline:  # skip the ticks that are lost, keep the rhythm
            lost = 1 + (stop - deadline) // period
            missed, deadline = missed + lost, deadline + lost * period
        wait_until(deadline)
        deadline += period
    gc.enable()
    env.close()
    return {"acting": acting, "stepping": stepping, "tick": whole, "missed": missed, "far": far, "returns": returns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path, help="policy.safetensors or policy.onnx")
    parser.add_argument("--env", default="HalfCheetah-v4", help="Gymnasium id; default HalfCheetah-v4")
    parser.add_argument("--rate", type=float, default=1000.0, help="ticks per second; default 1000")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long; default 10")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse_args()
    found = loop(args.policy, args.env, args.rate, args.seconds)
    ticks = len(found["tick"])
    report = {"ticks": ticks, "missed_deadlines": int(found["missed"]), "far_from_data": int(found["far"])}
    for name in ("acting", "stepping", "tick"):
        median, p99, worst = np.percentile(found[name], [50, 99, 100]) / 1e3
        report[name] = {"median_us": round(median, 1), "p99_us": round(p99, 1), "worst_us": round(worst, 1)}
    report["episodes"], report["mean_return"] = len(found["returns"]), round(float(np.mean(found["returns"] or [np.nan])), 1)
    if args.json:
        print(json.dumps(report))
        return
    print(f"{ticks} ticks at {args.rate:g} Hz: {report['missed_deadlines']} deadlines missed")
    for name in ("acting", "stepping", "tick"):
        print(f"  {name:<10}" + "  ".join(f"{key.removesuffix('_us')} {value} us" for key, value in report[name].items()))
    print(f"  {report['episodes']} episodes, mean return {report['mean_return']}; fall-back in {report['far_from_data']} ticks")


if __name__ == "__main__":
    main()
