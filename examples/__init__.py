"""Drivers to start from: `python -m rayhpc.start -m rayhpc.examples.train_ppo`, also from an installed wheel."""
