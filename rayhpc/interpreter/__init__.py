"""A directory for PYTHONPATH, from which a Python imports before its program: see standby.py."""
