"""`python -m rayhpc` is `rayhpc`."""

from rayhpc.cli import main

main(prog_name="rayhpc")
