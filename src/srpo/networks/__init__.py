"""Networks: every leaf is an array, each acts on the last axis."""
