"""Makes the data sets that ship inside the package from larger recordings of the same layout.

    python benchmarks/make_builtin.py SOURCE.hdf5 --to src/srpo/data/files/NAME.hdf5 --every 2

keeps every k-th episode, so that the mix of good and bad ones stays that of the source, value for value,
and prints what the result holds. The attribute `provenance` of the result says what it was made from.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import h5py
import numpy as np

from srpo.data import Dataset, load_dataset
from srpo.data.checks import FIELDS


def thin(data: Dataset, every: int) -> np.ndarray:
    """Rows of every k-th complete episode, from the first one on."""
    return np.concatenate([np.arange(a, b) for a, b in data.episodes[data.complete][::every]])


def write(data: Dataset, rows: np.ndarray, attributes: dict[str, str], path: Path) -> None:
    """The rows as a compressed file in D4RL's layout, one chunk per column (the best compression found)."""
    part = path.with_suffix(".part")
    with h5py.File(part, "w") as file:
        for key, name in FIELDS.items():
            if getattr(data, key) is not None:
                values = getattr(data, key)[rows]
                chunks = (len(rows), 1)[: values.ndim]
                file.create_dataset(name, data=values, chunks=chunks, compression="gzip", compression_opts=9, shuffle=True)
        file.attrs.update(attributes)
    os.replace(part, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="recording in D4RL's layout")
    parser.add_argument("--to", type=Path, required=True, help="file to write")
    parser.add_argument("--every", type=int, default=2, help="keep every k-th episode (default 2)")
    args = parser.parse_args()
    data = load_dataset(args.source)
    with h5py.File(args.source) as file:
        behavior = file.attrs.get("behavior", file.attrs.get("behaviour", ""))
    provenance = (
        f"one in {args.every} episodes of {args.source.name} (sha256 {data.sha256}), Gymnasium {data.env_id}, values unchanged"
    )
    write(data, thin(data, args.every), {"env_id": data.env_id, "behavior": behavior, "provenance": provenance}, args.to)
    for d in (data, load_dataset(args.to)):
        score = d.score(d.returns)
        size = Path(d.source).stat().st_size / 1e6
        print(
            f"{d.name}: {size:.2f} MB, {len(d)} rows, {len(d.returns)} episodes, score {score.mean():.1f} ({score.min():.1f} to {score.max():.1f})"
        )


if __name__ == "__main__":
    main()
