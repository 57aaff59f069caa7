"""Metrics of a run: the Prometheus that collects them, what it is asked, and what comes of it."""
