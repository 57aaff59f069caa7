"""Ray clusters inside batch jobs: start one on the allocation, run a driver on it, shut everything down."""

__version__ = "0.1.0"
