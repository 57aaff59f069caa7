"""What every RLlib driver needs on a batch system: stop in time, whole checkpoints, metrics, env runners on all nodes.

It may import the root of the package and records, and knows nothing of the bootstrap: a plain `python train.py` works.
"""
