"""Checks before node-hours burn: of this host, of the job, and between all hosts of an allocation."""
