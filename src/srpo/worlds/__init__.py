"""Mazes to act in, as environments of Gymnasium; `register()` makes their ids known to it.

`srpo/PointMaze-umaze-v0`, `-medium-`, `-large-`: a ball that is pushed to a goal, for the sets of `srpo data make`.
"""

from __future__ import annotations

from srpo.worlds.mazes import MAZES, point_maze_id


def register() -> None:
    """Make the environments known to `gymnasium.make`; again: nothing changes."""
    import gymnasium

    for name, maze in MAZES.items():
        if point_maze_id(name) not in gymnasium.registry:
            gymnasium.register(
                point_maze_id(name),
                entry_point="srpo.worlds.pointmaze:PointMaze",
                max_episode_steps=maze.point_steps,
                kwargs={"maze": name},
            )
