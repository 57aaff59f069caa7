"""Tests without Ray, without MPI, without a network."""
