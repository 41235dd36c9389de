"""Published normalized scores on the nine D4RL locomotion tasks (-v2).

BEAR to SRPO: SRPO's Table 1, with hopper-medium-replay of Diffuser and Diffusion-QL from their own papers, as the table's two
cells are misprinted. DTQL: its paper. BC: CORL, last checkpoints.
"""

from __future__ import annotations

from statistics import fmean

TASKS = (
    "halfcheetah-medium-expert-v2",
    "hopper-medium-expert-v2",
    "walker2d-medium-expert-v2",
    "halfcheetah-medium-v2",
    "hopper-medium-v2",
    "walker2d-medium-v2",
    "halfcheetah-medium-replay-v2",
    "hopper-medium-replay-v2",
    "walker2d-medium-replay-v2",
)
ROWS = {
    "bc": (56.0, 52.3, 99.0, 42.4, 53.5, 63.2, 35.7, 29.8, 21.8),
    "bear": (53.4, 96.3, 40.1, 41.7, 52.1, 59.1, 38.6, 33.7, 19.2),
    "td3-bc": (90.7, 98.0, 110.1, 48.3, 59.3, 83.7, 44.6, 60.9, 81.8),
    "iql": (86.7, 91.5, 109.6, 47.4, 66.3, 78.3, 44.2, 94.7, 73.9),
    "sfbc": (92.6, 108.6, 109.8, 45.9, 57.1, 77.9, 37.1, 86.2, 65.1),
    "diffuser": (79.8, 107.2, 108.4, 44.2, 58.5, 79.7, 42.2, 96.8, 61.2),
    "diffusion-ql": (96.8, 111.1, 110.1, 51.1, 90.5, 87.0, 47.8, 101.3, 95.5),
    "qgpo": (93.5, 108.0, 110.7, 54.1, 98.0, 86.0, 47.6, 96.9, 84.4),
    "idql": (95.9, 108.6, 112.7, 51.0, 65.4, 82.5, 45.9, 92.1, 85.1),
    "srpo": (92.2, 100.1, 114.0, 60.4, 95.5, 84.4, 51.4, 101.2, 84.6),
    "dtql": (92.7, 109.3, 110.0, 57.9, 99.6, 89.4, 50.9, 100.0, 88.5),
}
SCORES = {name: dict(zip(TASKS, row, strict=True)) for name, row in ROWS.items()}
MEAN = {name: round(fmean(row), 1) for name, row in ROWS.items()}  # of the rows; tables print them up to 0.1 apart
