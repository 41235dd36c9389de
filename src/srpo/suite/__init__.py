"""Many trainings with one budget: data sets x algorithms x seeds, worked through cell by cell, and what they come to."""
