"""job.yaml: read, checked line by line, its variables replaced."""
