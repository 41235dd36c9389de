"""A made plant: two tanks, one above the other; a pump fills the upper one, which drains into the lower, which drains away.

    python plant.py log --trips 100 --to logs          what an operator's controller wrote, faults included
    python plant.py truth operator robot/policy.so     what controllers really reach; nothing else may look at it

The level of the lower tank is to be held at a set point by the voltage of the pump. The constants are those of the
quadruple-tank process (Johansson 2000, IEEE Trans. Control Syst. Technol. 8, 456-465), less two tanks, with a pump that
gives nothing below a voltage. It is simulated to make the logs and to tell the truth at the end, and for nothing between.
"""

from __future__ import annotations

import argparse
import ctypes
from collections.abc import Callable
from pathlib import Path

import numpy as np

STEP = 5.0  # seconds between two rows
INNER = 10  # steps of the simulation in one of those
AREA, OUTLET, GRAVITY = 28.0, 0.071, 981.0  # cm^2 of a tank and of its hole, cm/s^2
PUMP, DEAD = 3.3, 1.5  # cm^3/s per volt, volts below which nothing flows
HEIGHT = 25.0  # cm, where a tank overflows
VOLTS = 10.0  # the most
ROWS = 120  # of a trip: ten minutes
NOISE = 0.05  # cm, of the sensors
COLUMNS = ("level_upper_cm", "level_lower_cm", "setpoint_cm")
Controller = Callable[[np.ndarray], np.ndarray]  # of obs (trips, 3): volts (trips,)


def flow(level: np.ndarray, volts: np.ndarray) -> np.ndarray:
    """The levels (trips, 2), upper and lower, in cm, STEP seconds later under volts (trips,)."""
    for _ in range(INNER):
        out = OUTLET * np.sqrt(2 * GRAVITY * np.maximum(level, 0))  # cm^3/s, Torricelli
        into = np.stack([PUMP * np.maximum(volts - DEAD, 0), out[:, 0]], 1)
        level = np.clip(level + STEP / INNER * (into - out) / AREA, 0, HEIGHT)
    return level


def drive(controller: Controller, trips: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Observations (trips, ROWS, 3) in cm and volts (trips, ROWS) of trips that start anywhere, each with its set point."""
    rng = np.random.default_rng(seed)
    level, setpoint = rng.uniform(1, 15, (trips, 2)), rng.uniform(5, 16, (trips, 1))
    seen, done = [], []
    for _ in range(ROWS):
        obs = np.concatenate([level + rng.normal(0, NOISE, level.shape), setpoint], 1)
        volts = np.clip(controller(obs), 0, VOLTS)
        seen.append(obs)
        done.append(volts)
        level = flow(level, volts)
    return np.stack(seen, 1), np.stack(done, 1)


def operator(trips: int, seed: int) -> Controller:
    """In proportion to the error, tuned by hand anew for each trip, around a voltage that fits one set point; never steady."""
    rng = np.random.default_rng(seed)
    gain = rng.uniform(0.1, 1.2, trips)  # volts per cm

    def act(obs: np.ndarray) -> np.ndarray:
        return np.clip(4.2 + gain * (obs[:, 2] - obs[:, 1]) + rng.normal(0, 0.8, trips), 0, VOLTS)

    return act


def log(folder: Path, trips: int, seed: int = 0, per_file: int = 20) -> None:
    """Writes Parquet files of `per_file` trips, with what goes wrong in logs: sensors that drop out, a logger that stops."""
    import pyarrow
    from pyarrow import parquet

    obs, volts = drive(operator(trips, seed + 1), trips, seed)
    obs[..., 1][np.random.default_rng(seed + 2).random((trips, ROWS)) < 0.003] = np.nan  # the sensor gave nothing
    obs[:, 0, 1] = np.where(np.isnan(obs[:, 0, 1]), obs[:, 0, 2], obs[:, 0, 1])  # it is looked at before the start
    written = np.ones((trips, ROWS), bool)
    written[trips // 2, 50:90] = False  # the logger was off, the pump was not
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, trips, per_file):
        chosen = slice(first, first + per_file)
        keep = written[chosen]
        time = 1000.0 * np.arange(trips)[chosen, None] + STEP * np.arange(ROWS)
        found = {"t": time[keep], "trip": np.broadcast_to(np.arange(trips)[chosen, None], keep.shape)[keep]}
        found |= {name: pyarrow.array(obs[chosen, :, i][keep], from_pandas=True) for i, name in enumerate(COLUMNS)}
        found |= {"pump_V": volts[chosen][keep], "mode": ["auto"] * int(keep.sum())}
        parquet.write_table(pyarrow.table(found), folder / f"trips_{first:04d}.parquet")


def shipped(path: Path, beta: float | None) -> Controller:
    """An exported policy: policy.safetensors, or policy.c compiled to a shared library."""
    if path.suffix == ".safetensors":
        from srpo.deploy import Policy

        policy = Policy(path)
        told = {} if beta is None else {"beta": beta}
        return lambda obs: policy.act(obs.astype(np.float32), **told)[:, 0]
    library, numbers = ctypes.CDLL(str(path.resolve())), ctypes.POINTER(ctypes.c_float)

    def act(obs: np.ndarray) -> np.ndarray:
        rows, volts = np.ascontiguousarray(obs, np.float32), np.zeros(len(obs), np.float32)
        for row, out in zip(rows, volts.reshape(-1, 1), strict=True):
            into, to = row.ctypes.data_as(numbers), out.ctypes.data_as(numbers)
            library.policy_act(into, to) if beta is None else library.policy_act_at(into, ctypes.c_float(beta), to)
        return volts

    return act


def truth(controller: Controller, trips: int, seed: int) -> tuple[float, float]:
    """Mean reward per step, by the function that the training used, and mean distance from the set point in cm."""
    from rewards import level

    obs, volts = drive(controller, trips, seed)
    now, following = obs[:, :-1].reshape(-1, 3), obs[:, 1:].reshape(-1, 3)
    return level(now, volts[:, :-1].reshape(-1, 1), following).mean(), np.abs(obs[:, :, 1] - obs[:, :, 2]).mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    logs = commands.add_parser("log")
    logs.add_argument("--to", type=Path, default=Path("logs"))
    shown = commands.add_parser("truth")
    shown.add_argument(
        "controllers", nargs="+", help="operator, or policy.safetensors or policy.so, @BETA behind it turns a dial"
    )
    for command, trips in ((logs, 100), (shown, 200)):
        command.add_argument("--trips", type=int, default=trips)
    args = parser.parse_args()
    if args.command == "log":
        return log(args.to, args.trips)
    print(f"{'controller':<36}{'reward per step':>16}{'cm off':>9}")
    for name in args.controllers:
        path, _, beta = name.partition("@")
        act = operator(args.trips, 1001) if name == "operator" else shipped(Path(path), float(beta) if beta else None)
        reward, off = truth(act, args.trips, 1000)
        print(f"{name:<36}{reward:>16.3f}{off:>9.2f}")


if __name__ == "__main__":
    main()
