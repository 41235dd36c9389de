"""Searching for good settings: trials that differ in some settings by path, the poor ones stopped early."""
