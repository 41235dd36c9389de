"""Training: the loop of a stage, a training as a whole, and what a person sees of it."""
