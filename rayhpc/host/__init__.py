"""What this host is and has: CPUs, memory, GPUs, file systems, sockets, certificates. Imports only the root."""
