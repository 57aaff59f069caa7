"""What users hand in: their files, a driver that is not there, which of their variables are secrets."""
