"""What the guard of `srpo.deploy.SafePolicy` notices: false alarms on held-out episodes, and sensor faults by kind.

    python benchmarks/safety.py halfcheetah-medium-replay-mini

The statistics are taken from the even episodes; rates are shares of the rows of the odd ones. A fault is put on one
signal at a time; the figures are the smallest, median and largest rate over the signals.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable

import numpy as np

import srpo
from srpo.deploy import Support

ROWS = 2000
Fault = Callable[[np.ndarray, np.ndarray, np.random.Generator], np.ndarray]  # value (n,), deviation, rng -> value

FAULTS: dict[str, Fault] = {
    "stuck at zero": lambda x, std, rng: 0 * x,
    "stuck at its mean": lambda x, std, rng: 0 * x + x.mean(),
    "sign flipped": lambda x, std, rng: -x,
    "twice too large": lambda x, std, rng: 2 * x,
    "offset of 3 deviations": lambda x, std, rng: x + 3 * std,
    "offset of 10 deviations": lambda x, std, rng: x + 10 * std,
    "noise of 3 deviations": lambda x, std, rng: x + rng.normal(0, 3 * std, x.shape),
}


def noticed(support: Support, rows: np.ndarray) -> float:
    return float(np.mean([support.complaint(row) is not None for row in rows]))


def measure(data) -> dict[str, list[float]]:
    rng = np.random.default_rng(0)
    halves = [np.concatenate([data.obs[a:b] for a, b in data.episodes[i::2]]) for i in (0, 1)]
    support, std = Support.of(halves[0]), halves[0].std(0)
    rows = halves[1][rng.integers(0, len(halves[1]), ROWS)]
    found = {"no fault (held-out episodes)": [noticed(support, rows)]}
    for name, fault in FAULTS.items():
        rates = []
        for signal in range(rows.shape[1]):
            bad = rows.copy()
            bad[:, signal] = fault(bad[:, signal], std[signal], rng)
            rates.append(noticed(support, bad))
        found[name] = rates
    shuffled = np.stack([rng.permutation(column) for column in rows.T], axis=1)
    return found | {"every signal from another row": [noticed(support, shuffled)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="built-in name or path")
    parser.add_argument("--json", action="store_true", help="print one JSON object: rates per signal")
    args = parser.parse_args()
    found = measure(srpo.load_dataset(args.data))
    if args.json:
        print(json.dumps(found))
        return
    print(f"{args.data}: rows noticed, smallest / median / largest over the signals")
    for name, rates in found.items():
        print(
            f"  {name:<32}"
            + " / ".join(f"{100 * f(rates):.1f} %" for f in (np.min, np.median, np.max)[: 3 if len(rates) > 1 else 1])
        )


if __name__ == "__main__":
    main()
