"""Presets that several algorithms share: data alone, by the paths of their fields."""
