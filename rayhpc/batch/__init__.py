"""The login node's side: a jobscript and a driver become a job, which is then followed to its end."""
