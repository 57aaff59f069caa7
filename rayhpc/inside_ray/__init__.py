"""What runs inside Ray's own processes, and everything that touches Ray's private names.

Its modules import each other at most.
"""
