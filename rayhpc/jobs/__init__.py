"""Jobs on running clusters, from a login node: handed in, found, followed, stopped."""
