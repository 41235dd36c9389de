"""The ranking as a picture: the gain of the first policies, and of all of them against how far off the data they act."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib
import numpy as np

from srpo.judging.panel import labels
from srpo.judging.ranking import Judged
from srpo.judging.verdict import Judgement
from srpo.runs.checkpoint import write_atomically

SHOWN = 20  # policies with a line of their own


def draw(judgement: Judgement, path: Path) -> None:
    """Write the picture to `path`, a PNG. Raises CheckpointError if it cannot be written."""
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    finite = [j for j in judgement.ranking if np.isfinite([j.gain, j.gain_low, j.gain_high]).all()]
    first = finite[:SHOWN][::-1]
    fig, (left, right) = plt.subplots(1, 2, figsize=(11, 0.22 * len(first) + 2), layout="constrained")
    _bars(left, first)
    for name in dict.fromkeys(j.candidate.algorithm for j in finite):
        mine = [j for j in finite if j.candidate.algorithm == name]
        faces = [0.9 if j.trusted else 0.15 for j in mine]
        right.scatter([j.likelihood for j in mine], [j.gain for j in mine], s=22, alpha=faces, label=name)
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
        ax.tick_params(labelsize=7)
    right.axhline(0, color="0.6", lw=0.8)
    right.axvline(0, color="0.6", lw=0.8)
    right.set_xlabel("nats per step above the recorded actions (left: off the data)", fontsize=8)
    right.set_ylabel("gain over a clone of the behavior", fontsize=8)
    if finite:
        right.legend(fontsize=7, frameon=False, title="faint: not trusted", title_fontsize=7)
    fig.suptitle(f"{judgement.data}: {judgement.answer}", fontsize=10)
    content = io.BytesIO()
    fig.savefig(content, dpi=130, format="png")
    plt.close(fig)
    write_atomically(path, content.getvalue())


def _bars(ax, judged: list[Judged]) -> None:
    y = np.arange(len(judged))
    gain, low, high = (np.array([getattr(j, name) for j in judged]) for name in ("gain", "gain_low", "gain_high"))
    ax.hlines(y, low, high, color="0.7", lw=2)
    ax.plot(gain, y, "o", ms=4, color="C0")
    ax.axvline(0, color="0.6", lw=0.8)
    names = labels([j.candidate for j in judged])
    ax.set_yticks(y, [f"{name} seed {j.candidate.seed}" for name, j in zip(names, judged, strict=True)])
    ax.set_xlabel("gain over a clone of the behavior, 95 % interval", fontsize=8)
