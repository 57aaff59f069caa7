"""GRPO on two hosts of eight GPUs, small enough to read: start with train.py."""
