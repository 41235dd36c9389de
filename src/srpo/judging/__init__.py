"""What data alone can tell of policies: their values, where they leave the data, which one to take, and when nothing can be said."""
