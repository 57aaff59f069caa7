"""How ranks find each other and exchange messages: MPI, TCP, heartbeats. Imports host, schedulers and the root."""
