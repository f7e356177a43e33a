"""How pickles name the classes of the started program, shown by programs that are started."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from durable._journal.codec import Codec

ROOT = Path(__file__).parents[2]
CODEC = Codec()

CLASSES = """
import pickle, sys
from dataclasses import dataclass
from durable._journal.codec import Codec
from durable._journal.failure import encode_failure

@dataclass
class Order:
    number: int
class Declined(Exception):
    pass
codec = Codec()
"""


def run(folder: Path, text: str, *arguments: str, stem: str = "shop") -> str:
    """Return what a script prints: the classes above, and then `text`."""
    (folder / f"{stem}.py").write_text(CLASSES + text)
    return started(folder, f"{stem}.py", *arguments)


def started(folder: Path, *command: str) -> str:
    """Return what Python prints."""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True,
        text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    return ended.stdout.strip()


def test_preview_shows_the_plain_name_and_imports_nothing(tmp_path: Path) -> None:
    """As if another program had recorded it that imports the script."""
    out = run(tmp_path, "print(codec.encode([Order(7), Order, lambda: 1]).hex())")
    out += " " + run(tmp_path, "print(codec.encode([Order(7), Order]).hex())")
    code, plain = map(bytes.fromhex, out.split())
    assert repr(CODEC.preview(plain)) == "[shop.Order(number=7), <shop.Order>]"
    assert repr(CODEC.preview(code)).startswith("[shop.Order(number=7), <shop.Order>, ")
    assert "shop" not in sys.modules


def test_pickles_of_nameless_programs_and_other_values_are_plain(tmp_path: Path) -> None:
    """A notebook and `-c` have no import name; the word alone makes no difference."""
    text = "value = Order(7)\n"
    check = (
        "plain = pickle.dumps(value, 5)\n"
        "assert codec.encode(value) == plain[:2] + plain[11:], codec.encode(value)\n"
        "print('plain')"
    )
    assert started(tmp_path, "-c", CLASSES + text + check) == "plain"
    assert run(tmp_path, "value = ['__main__', 1, ValueError('__main__')]\n" + check) == "plain"


def test_values_recorded_before_are_read_by_the_script(tmp_path: Path) -> None:
    """They call the class by the name `__main__`."""
    text = (
        "assert type(codec.decode(pickle.dumps(Order(7), 5))) is Order\n"
        "failure = pickle.dumps(Declined('no'), 5)\n"
        "assert type(codec.decode(failure)) is Declined\n"
        "print('read')"
    )
    assert run(tmp_path, text) == "read"


def test_script_that_was_renamed_finds_its_classes(tmp_path: Path) -> None:
    """Nobody is called `shop` any more, and the started program has the class."""
    payload = run(tmp_path, "print(codec.encode(Order(7)).hex())")
    text = "print(type(codec.decode(bytes.fromhex(sys.argv[1]))) is Order)"
    assert run(tmp_path, text, payload, stem="store") == "True"


def test_script_that_is_imported_as_well_keeps_its_two_classes_apart(tmp_path: Path) -> None:
    """Each value comes back as what it was."""
    text = (
        "if __name__ == '__main__':\n"
        "    import shop\n"
        "    mine, other = codec.decode(codec.encode([Order(1), shop.Order(2)]))\n"
        "    print(type(mine) is Order, type(other) is shop.Order, Order is shop.Order)"
    )
    assert run(tmp_path, text) == "True True False"


def test_whatever_goes_by_name_is_found_again(tmp_path: Path) -> None:
    """Nested classes, enum members, constants, cached functions, type variables, methods."""
    text = """
import enum, functools, typing
class Outer:
    class Inner: pass
    @classmethod
    def made(cls): return cls()
    @staticmethod
    def still(): return 1
class Constant:
    def __reduce__(self): return "MISSING"
MISSING = Constant()
class Colour(enum.Flag):
    RED = 1
@functools.cache
def cached(): return 1
T = typing.TypeVar("T")
UserId = typing.NewType("UserId", int)
def plain(): return 2
value = [Outer.Inner, MISSING, Colour.RED, cached, T, UserId, plain, Outer.made, Outer.still]
payload = codec.encode(value)
assert b"__main__" not in payload and payload[:1] == bytes([128])
assert codec.decode(payload) == value
local = type("Local", (), {"still": staticmethod(lambda: 3), "cls": Outer})
value.remove(Outer.made)  # beside code it goes with its code
*rest, made = codec.decode(codec.encode([*value, local]))
assert rest == value and made.still() == 3 and made.cls is Outer
print("same")
"""
    assert run(tmp_path, text) == "same"
