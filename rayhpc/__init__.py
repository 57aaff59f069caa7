"""An allocation on a supercomputer becomes a Ray cluster, runs a driver, and is given back."""

__version__ = "0.1.0"
