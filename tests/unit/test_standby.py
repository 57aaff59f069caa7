"""A Python that is held back before its program. A real one each time; what it says goes to a file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from rayhpc import interpreter, standby
from rayhpc.interpreter import sitecustomize
from rayhpc.keeping import Keeping
from rayhpc.proc import Order, until_gone
from rayhpc.standby import Standby

from .making import until

HOOK = Path(interpreter.__file__).parent
LADDER = ((int(signal.SIGINT), 5.0),)
# Standard library that no Python imports by itself, and all that is left in the environment.
STATE = (
    "import os, sys; print(sorted({'asyncio', 'pdb', 'requests'} & set(sys.modules)), os.environ.get('PYTHONPATH'), "
    f"[path for path in sys.path if {str(HOOK)!r} in path], repr(sys.stdin.read()), sys.argv[1:])\n"
)
# Where the packages are that the program may need: not in what PYTHONPATH says, which is a test's own.
PLAIN = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "HOME") if name in os.environ}

Start = Callable[..., Standby]


class Place:
    """A directory with a driver, and what it has said."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.output = directory / "output"
        self.made: list[Standby] = []

    def write(self, name: str, text: str) -> Path:
        (self.directory / name).parent.mkdir(exist_ok=True)
        (self.directory / name).write_text(text)
        return self.directory / name

    def order(self, *words: str, env: Mapping[str, str] = PLAIN) -> Order:
        argv = [sys.executable, "-u", *(words or ("train.py",))]
        return Order(argv=argv, env=env, ladder=LADDER, cwd=str(self.directory))

    def hold(self, order: Order) -> Standby:
        with self.output.open("ab") as output:
            self.made.append(Standby(Keeping("test/driver", output.fileno(), output.fileno())))
        self.made[-1].hold(order)
        return self.made[-1]

    def run(self, order: Order) -> str:
        """What a driver says that was held back and let go; it ends with 0."""
        child = self.hold(order)
        assert child.release(order)
        assert not until_gone([child], 30.0)
        assert child.code == 0, self.output.read_text()
        return self.output.read_text()


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(tmp_path)
    place.write("train.py", STATE)
    yield place
    for child in place.made:
        child.end()
    assert not until_gone(place.made, 10.0)


def waits(child: Standby) -> bool:
    """It has imported the last of what it shall, and sleeps."""
    return until(lambda: not child.poll() and bool(child.pid) and sleeps_with(child.pid, b"_uuid"), 30.0)


def sleeps_with(pid: int, library: bytes) -> bool:
    state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    return state == b"S" and library in Path(f"/proc/{pid}/maps").read_bytes()


def test_it_begins_when_it_may_and_finds_all_as_it_would_be(place: Place) -> None:
    order = place.order("train.py", "--lr", "3")
    child = place.hold(order)
    assert waits(child)
    assert place.output.read_text() == ""
    assert child.release(order)
    assert not until_gone([child], 30.0)
    assert place.output.read_text() == "['asyncio', 'pdb'] None [] '' ['--lr', '3']\n"


def test_a_module_is_held_back_as_well(place: Place) -> None:
    place.write("package/train.py", STATE)
    assert place.run(place.order("-m", "package.train", "x")) == "['asyncio', 'pdb'] None [] '' ['x']\n"


@pytest.mark.parametrize("path", ["/nowhere", "/nowhere:/elsewhere", ":/nowhere:"])
def test_the_users_own_path_is_as_it_was(place: Place, path: str) -> None:
    said = place.run(place.order(env={**PLAIN, "PYTHONPATH": path}))
    assert said == f"['asyncio', 'pdb'] {path} [] '' []\n"


def test_a_directory_is_looked_at_in_the_users_order(place: Place) -> None:
    for name in ("first", "second"):
        place.write(f"{name}/mine.py", f"NAME = {name!r}\n")
    place.write("train.py", "import mine; print(mine.NAME)\n")
    path = os.pathsep.join(str(place.directory / name) for name in ("first", "second"))
    assert place.run(place.order(env={**PLAIN, "PYTHONPATH": path})) == "first\n"


def test_the_users_own_sitecustomize_comes_when_the_driver_begins(place: Place) -> None:
    place.write("own/sitecustomize.py", "import os; print('own', os.environ['PYTHONPATH'])\n")
    place.write("train.py", "import sitecustomize; print(sitecustomize.__file__)\n")
    own = str(place.directory / "own")
    order = place.order(env={**PLAIN, "PYTHONPATH": own})
    child = place.hold(order)
    assert waits(child)
    assert place.output.read_text() == ""
    assert child.release(order)
    assert not until_gone([child], 30.0)
    assert place.output.read_text() == f"own {own}\n{own}/sitecustomize.py\n"


def test_a_sitecustomize_that_fails_is_told_as_python_tells_it(place: Place) -> None:
    place.write("own/sitecustomize.py", "import no_such_module\n")
    place.write("train.py", "print('begun')\n")
    env = {**PLAIN, "PYTHONPATH": str(place.directory / "own")}
    order = place.order(env=env)
    plain = subprocess.run(order.argv, env=env, cwd=place.directory, capture_output=True, text=True, check=True)
    assert "no_such_module" in plain.stderr
    assert place.run(order) == plain.stderr + plain.stdout


def test_a_module_that_fails_is_the_drivers_to_hear_of(place: Place) -> None:
    """PYTHONPATH may name directories that have modules with names of the standard library."""
    place.write("own/decimal.py", "raise ValueError('not mine')\n")
    place.write("train.py", "try: import decimal\nexcept ValueError as error: print(error)\n")
    order = place.order(env={**PLAIN, "PYTHONPATH": str(place.directory / "own")})
    child = place.hold(order)
    assert waits(child)
    assert child.release(order)
    assert not until_gone([child], 30.0)
    assert place.output.read_text() == "not mine\n"


def test_what_a_driver_adds_to_its_path_is_looked_at(place: Place) -> None:
    place.write("mine/yaml.py", "NAME = 'mine'\n")
    place.write("train.py", "import sys; sys.path.insert(0, 'mine'); import yaml; print(yaml.NAME)\n")
    assert place.run(place.order()) == "mine\n"


@pytest.mark.parametrize("words", [("train.py",), ("-m", "train")])
def test_the_drivers_own_modules_come_first(place: Place, words: tuple[str, ...]) -> None:
    """Whoever has a decimal.py beside his driver means that one, however bad the idea."""
    place.write("decimal.py", "NAME = 'mine'\n")
    place.write("train.py", "import decimal; print(decimal.NAME)\n")
    assert place.run(place.order(*words)) == "mine\n"


def test_a_driver_elsewhere_by_a_link(place: Place) -> None:
    place.write("real/train.py", "import decimal; print(decimal.NAME)\n")
    place.write("real/decimal.py", "NAME = 'mine'\n")
    (place.directory / "link.py").symlink_to("real/train.py")
    assert place.run(place.order("link.py")) == "mine\n"


def test_it_is_ended_without_a_word(place: Place) -> None:
    order = place.order()
    child = place.hold(order)
    assert waits(child)
    child.end()
    assert not until_gone([child], 10.0)
    assert (child.code, child.killed, place.output.read_text()) == (-signal.SIGKILL, 0, "")
    assert not child.release(order)


def test_it_is_ended_before_it_waits(place: Place) -> None:
    """An interrupt would make Python say that it could not be initialized."""
    child = place.hold(place.order())
    child.end()
    assert not until_gone([child], 10.0)
    assert place.output.read_text() == ""


def test_an_interrupt_ends_it_without_a_word(place: Place) -> None:
    child = place.hold(place.order())
    assert waits(child)
    os.kill(child.pid, signal.SIGINT)
    assert not until_gone([child], 10.0)
    assert (child.code, place.output.read_text()) == (1, "")


def test_one_that_has_begun_gets_the_ladder(place: Place) -> None:
    place.write("train.py", "import time\nprint('begun')\nwhile True: time.sleep(0.02)\n")
    order = place.order()
    child = place.hold(order)
    assert child.release(order)
    assert until(lambda: "begun" in place.output.read_text(), 30.0)
    child.end()
    assert not until_gone([child], 10.0)
    assert child.code == -signal.SIGINT
    assert "KeyboardInterrupt" in place.output.read_text()


def test_an_interrupt_is_pythons_own_once_it_has_begun(place: Place) -> None:
    place.write("train.py", "import signal; print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)\n")
    assert place.run(place.order()) == "True\n"


def test_it_never_begins_when_its_keeper_is_killed(place: Place) -> None:
    child = place.hold(place.order())
    assert waits(child)
    os.kill(child.keeper_pid, signal.SIGKILL)
    assert not until_gone([child], 10.0)
    assert until(lambda: not living(child.pid))
    assert place.output.read_text() == ""


def living(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def test_another_order_is_refused(place: Place) -> None:
    order = place.order()
    child = place.hold(order)
    assert not child.release(replace(order, env={**PLAIN, "RAY_ADDRESS": "another"}))
    assert not child.poll()


def test_one_that_was_killed_meanwhile_is_refused(place: Place) -> None:
    order = place.order()
    child = place.hold(order)
    assert waits(child)
    os.kill(child.pid, signal.SIGUSR1)
    assert until(child.poll)
    assert not child.release(order)


def test_one_that_has_ended_by_itself_has_ended(place: Place) -> None:
    """Whatever let it: a driver is never begun twice."""
    place.write("own/decimal.py", "import os; os._exit(3)\n")
    order = place.order(env={**PLAIN, "PYTHONPATH": str(place.directory / "own")})
    child = place.hold(order)
    assert until(child.poll, 30.0)
    assert child.release(order)
    assert child.code == 3


def test_a_directory_that_pythonpath_cannot_name_holds_nothing_back(monkeypatch: pytest.MonkeyPatch) -> None:
    assert standby.can_hold()
    monkeypatch.setattr(standby, "_HOLDS", "/home/a:b/rayhpc/interpreter")
    assert not standby.can_hold()


def test_behind_a_script_nothing_is_held_back(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may set PYTHONPATH anew, and the driver would begin at once."""
    script = place.write("python", f'#!/bin/sh\nunset PYTHONPATH\nexec {sys.executable} "$@"\n')
    script.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(script))
    order = replace(place.order(), argv=[str(script), "-u", "train.py"])
    child = place.hold(order)
    assert not standby.can_hold()
    assert child.pid == 0
    assert child.release(order)
    assert not until_gone([child], 30.0)
    assert place.output.read_text() == "[] None [] '' []\n"


# Every variable that somebody asks for, until the program begins.
SPY = """
import os, sys, importlib
ours = {{'__mp_main__', *(name.partition('.')[0] for name in sys.modules)}}  # that one is __main__
asked = []
of = os._Environ.__getitem__
os._Environ.__getitem__ = lambda self, name: (asked.append(name), of(self, name))[1]
for name in {names}:
    importlib.import_module(name)
print(asked, sorted({{name.partition('.')[0] for name in sys.modules}} - set(sys.stdlib_module_names) - ours))
"""


def test_what_is_imported_is_the_standard_library_and_reads_no_variable() -> None:
    """The driver may still set some, and change sys.path."""
    spied = [sys.executable, "-c", SPY.format(names=sitecustomize.NEEDED)]
    done = subprocess.run(spied, capture_output=True, text=True, check=True)
    assert done.stdout == "[] []\n"


def test_ray_needs_what_is_imported() -> None:
    script = f"import sys, ray\nsys.exit(' '.join(set({sitecustomize.NEEDED}) - set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
