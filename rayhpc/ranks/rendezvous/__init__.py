"""How ranks find each other without MPI: through a file, at an address, or from terminals."""
