"""The processes that a rank starts: keepers, environments, signals, limits. Imports the root and inside_ray."""
