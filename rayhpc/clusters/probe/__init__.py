"""A job that looks at every node of a cluster, and what its answers mean."""
