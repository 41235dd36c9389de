"""Where recorded data come from: one file per source."""
