"""Supercomputers by name: a table of each, and what it makes of a submission."""
