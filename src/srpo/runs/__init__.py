"""A run on disk: the grid of its seeds and points, its folder, its checkpoints, its tables."""
