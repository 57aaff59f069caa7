"""The workbench: train and view with RLlib from a configuration. It stands on rayhpc.rllib, and on Hydra.

It may import the root of the package and rllib. Ray, Hydra, torch and the loggers are imported inside functions.
"""
