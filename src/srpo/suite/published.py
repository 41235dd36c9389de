"""Published normalized scores on the nine D4RL locomotion tasks (-v2) and the six antmaze tasks.

BEAR to SRPO: SRPO's Table 1, with hopper-medium-replay of Diffuser and Diffusion-QL from their own papers, as the table's two
cells are misprinted. DTQL: its paper. BC: CORL, last checkpoints. On antmaze the table puts scores on D4RL's v0 sets
(TD3+BC, IQL, Diffusion-QL, IDQL) beside scores on its v2 sets (SRPO, SfBC, QGPO).
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
ANTMAZE_TASKS = (
    "antmaze-umaze-v2",
    "antmaze-umaze-diverse-v2",
    "antmaze-medium-play-v2",
    "antmaze-medium-diverse-v2",
    "antmaze-large-play-v2",
    "antmaze-large-diverse-v2",
)
ANTMAZE_ROWS = {
    "bear": (73.0, 61.0, 0.0, 8.0, 0.0, 0.0),
    "td3-bc": (78.6, 71.4, 10.6, 3.0, 0.2, 0.0),
    "iql": (87.5, 62.2, 71.2, 70.0, 39.6, 47.5),
    "sfbc": (92.0, 85.3, 81.3, 82.0, 59.3, 45.5),
    "diffusion-ql": (93.4, 66.2, 76.6, 78.6, 46.4, 56.6),
    "qgpo": (96.4, 74.4, 83.6, 83.8, 66.6, 64.8),
    "idql": (94.0, 80.2, 84.5, 84.8, 63.5, 67.9),
    "srpo": (97.1, 82.1, 80.7, 75.0, 53.6, 53.6),
}
SRPO_SPREAD = dict(  # over six seeds
    zip(
        (*TASKS, *ANTMAZE_TASKS),
        (3.0, 13.9, 2.1, 0.8, 2.0, 4.4, 3.4, 1.0, 7.1, 2.7, 10.8, 7.1, 12.3, 12.5, 6.3),
        strict=True,
    )
)
SCORES = {
    name: dict(zip(TASKS, row, strict=True)) | dict(zip(ANTMAZE_TASKS, ANTMAZE_ROWS.get(name, ()), strict=False))
    for name, row in ROWS.items()
}
MEAN = {name: round(fmean(row), 1) for name, row in ROWS.items()}  # of the rows; tables print them up to 0.1 apart
