"""`python -m rayhpc.lab`, also as a driver: `python -m rayhpc.start -m rayhpc.lab train …`."""

from rayhpc.lab.commands import lab

if __name__ == "__main__":
    lab(prog_name="python -m rayhpc.lab")
