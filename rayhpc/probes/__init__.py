"""Programs that run in the cluster, as jobs: sent as they stand, so they import nothing of ours."""
