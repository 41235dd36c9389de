"""Policies in environments: rollouts, scores with intervals, films."""
