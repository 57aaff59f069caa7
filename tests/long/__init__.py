"""What takes minutes: `make test-long`, beside `make test`."""
