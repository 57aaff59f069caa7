"""What Hydra composes from: our defaults."""
