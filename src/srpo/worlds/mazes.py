"""The three mazes of D4RL's antmaze, which PointMaze shares: walls, start, goal, and shortest ways between cells.

Source: D4RL, `locomotion/maze_env.py` (U_MAZE_TEST, BIG_MAZE_TEST, HARDEST_MAZE_TEST).
"""

from __future__ import annotations

from collections import deque
from typing import NamedTuple

Cell = tuple[int, int]  # row, column


class Maze(NamedTuple):
    rows: tuple[str, ...]  # "#" a wall, "S" the start, "G" the goal
    ant_steps: int  # time limit of an episode of AntMaze
    point_steps: int  # and of PointMaze: that of D4RL's maze2d-*-v1

    def find(self, mark: str) -> list[Cell]:
        """The cells with a mark, row by row."""
        return [(i, j) for i, row in enumerate(self.rows) for j, char in enumerate(row) if char == mark]

    @property
    def walls(self) -> list[Cell]:
        return self.find("#")

    @property
    def free(self) -> list[Cell]:
        """All cells that are no wall, row by row."""
        return sorted(cell for mark in " SG" for cell in self.find(mark))

    @property
    def start(self) -> Cell:
        return self.find("S")[0]

    @property
    def goal(self) -> Cell:
        return self.find("G")[0]

    def way(self, start: Cell, goal: Cell) -> list[Cell]:
        """A shortest way from one free cell to another: the cells after `start`, `goal` included."""
        before: dict[Cell, Cell] = {goal: goal}
        ahead = deque([goal])  # breadth first from the goal, so that the links lead to it
        free = set(self.free)
        while ahead:
            i, j = ahead.popleft()
            for cell in ((i + 1, j), (i, j + 1), (i - 1, j), (i, j - 1)):
                if cell in free and cell not in before:
                    before[cell] = (i, j)
                    ahead.append(cell)
        out = []
        while start != goal:
            start = before[start]
            out.append(start)
        return out


MAZES = {
    "umaze": Maze(
        (
            "#####",
            "#S  #",
            "### #",
            "#G  #",
            "#####",
        ),
        700,
        300,
    ),
    "medium": Maze(
        (
            "########",
            "#S ##  #",
            "#  #   #",
            "##   ###",
            "#  #   #",
            "# #  # #",
            "#   # G#",
            "########",
        ),
        1000,
        600,
    ),
    "large": Maze(
        (
            "############",
            "#S   #     #",
            "# ## # # # #",
            "#      #   #",
            "# #### ### #",
            "#  # #     #",
            "## # # # ###",
            "#  #   # G #",
            "############",
        ),
        1000,
        800,
    ),
}


def ant_maze_id(maze: str) -> str:
    """Gymnasium's id of D4RL's AntMaze in one of `MAZES`."""
    return f"srpo/AntMaze-{maze}-v2"


def point_maze_id(maze: str) -> str:
    """Gymnasium's id of PointMaze in one of `MAZES`."""
    return f"srpo/PointMaze-{maze}-v0"
