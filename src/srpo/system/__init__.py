"""What is not of learning: files from outside, JSON, the machine and its environment variables, the time of a command, a cluster."""
