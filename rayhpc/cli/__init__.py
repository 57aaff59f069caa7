"""`rayhpc …`, the login node's command line: one file for each group of commands. May import every other room."""
