"""What users hand in, looked at before it is used: their files, and the names by which their secrets are known."""
