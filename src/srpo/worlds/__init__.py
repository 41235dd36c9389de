"""Environments of Gymnasium that no other package has; `register()` makes their ids known to it.

`srpo/AntMaze-umaze-v2`, `-medium-`, `-large-`: those of D4RL's antmaze sets, on current MuJoCo.
`srpo/PointMaze-umaze-v0`, `-medium-`, `-large-`: a ball that is pushed to a goal, for the sets of `srpo data make`.
`srpo/Ant-v0`: the ant of D4RL's ant sets, which saw no contact forces.
"""

from __future__ import annotations

from srpo.worlds.mazes import MAZES, ant_maze_id, point_maze_id

ANT = "srpo/Ant-v0"


def register() -> None:
    """Make the environments known to `gymnasium.make`; again: nothing changes."""
    import gymnasium

    if ANT not in gymnasium.registry:
        gymnasium.register(ANT, "srpo.worlds.ant:SilentAnt", max_episode_steps=1000)
    for name, maze in MAZES.items():
        if ant_maze_id(name) not in gymnasium.registry:
            worlds = (
                (ant_maze_id(name), "antmaze:AntMaze", maze.ant_steps),
                (point_maze_id(name), "pointmaze:PointMaze", maze.point_steps),
            )
            for env_id, where, steps in worlds:
                gymnasium.register(env_id, f"srpo.worlds.{where}", max_episode_steps=steps, kwargs={"maze": name})
