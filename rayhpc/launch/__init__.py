"""A rank's command line, and the rank from its first step to its exit code. May import every other room but cli."""
