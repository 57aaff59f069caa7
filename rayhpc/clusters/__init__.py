"""On the login node: running clusters, found, entered and ended."""
