"""What a run writes down, and who reads it: the run directory, the registry of running clusters, the timeline.

Imports host, schedulers, processes and the root.
"""
