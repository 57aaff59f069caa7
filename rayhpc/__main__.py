"""`python -m rayhpc` is `rayhpc`."""

from rayhpc.cli.main import main

main(prog_name="rayhpc")
