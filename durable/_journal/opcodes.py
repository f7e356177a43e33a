"""Reads pickle opcodes into nodes, without building what they describe.

Owns the stack machine of `pickle` with its teeth drawn: a global is its name, a call is
a note of the call, a persistent id or an extension code is a description. It never
imports, looks up, calls, compares or hashes anything that comes from the payload.

Does not bound its work: whoever feeds it opcodes counts them.
"""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Machine", "Node"]

_NAME_MAX = 200
_OF_MAIN = "durable._journal.main_classes.of_main"  # how a class of the script is written
_REBUILD = "durable.errors._rebuild"  # how an exception is written, with its type and arguments


class Node:
    """A container or object of a pickle, as written: nothing resolved, nothing hashed."""

    __slots__ = ("args", "items", "kind", "name", "pairs", "state")

    def __init__(self, kind: str, items: list[object] | None = None, name: str = "") -> None:
        self.kind = kind  # list, tuple, set, frozenset, dict, global or object
        self.name = name
        self.items: list[object] = items if items is not None else []
        self.pairs: list[tuple[object, object]] = []
        self.args: list[object] = []
        self.state: object = None


class _Mark:
    """Where a variable number of stack items begins."""


_MARK = _Mark()
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY = {"EMPTY_LIST": "list", "EMPTY_TUPLE": "tuple", "EMPTY_SET": "set", "EMPTY_DICT": "dict"}
_FROM_MARK = {"LIST": "list", "TUPLE": "tuple", "FROZENSET": "frozenset"}
_SHORT_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
_OUTSIDE = {"PERSID", "BINPERSID", "EXT1", "EXT2", "EXT4", "NEXT_BUFFER"}
_NOTHING = {"PROTO", "FRAME", "STOP", "READONLY_BUFFER"}


class Machine:
    """Pickle's stack machine, except that objects stay descriptions."""

    def __init__(self) -> None:
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.actions: dict[str, Callable[[], None]] = {
            "MARK": lambda: self.stack.append(_MARK),
            "POP": self.drop,
            "POP_MARK": self.drop_mark,
            "DUP": lambda: self.stack.append(self.stack[-1]),
            "MEMOIZE": lambda: self.remember(len(self.memo)),
            "APPEND": lambda: self.extend([self.stack.pop()]),
            "APPENDS": lambda: self.extend(self.to_mark()),
            "ADDITEMS": lambda: self.extend(self.to_mark()),
            "SETITEM": lambda: self.set_items(self.take(2)),
            "SETITEMS": lambda: self.set_items(self.to_mark()),
            "DICT": lambda: self.build_dict(self.to_mark()),
            "STACK_GLOBAL": lambda: self.name_global(".".join(map(_name, self.take(2)))),
            "REDUCE": lambda: self.call(*self.take(2)),
            "NEWOBJ": lambda: self.call(*self.take(2)),
            "NEWOBJ_EX": lambda: self.call_with_names(*self.take(3)),
            "OBJ": lambda: self.call_marked(self.to_mark()),
            "BUILD": lambda: self.set_state(self.stack.pop()),
        }

    def step(self, opcode: str, argument: object) -> None:
        if opcode in self.actions:
            self.actions[opcode]()
        elif opcode in _EMPTY:
            self.stack.append(Node(_EMPTY[opcode]))
        elif opcode in _FROM_MARK:
            self.stack.append(Node(_FROM_MARK[opcode], self.to_mark()))
        elif opcode in _SHORT_TUPLES:
            self.stack.append(Node("tuple", self.take(_SHORT_TUPLES[opcode])))
        elif opcode not in _NOTHING:
            self.step_with_argument(opcode, argument)

    def step_with_argument(self, opcode: str, argument: object) -> None:
        if opcode in ("PUT", "BINPUT", "LONG_BINPUT"):
            assert isinstance(argument, int)
            self.remember(argument)
        elif opcode in ("GET", "BINGET", "LONG_BINGET"):
            assert isinstance(argument, int)
            self.stack.append(self.memo[argument])
        elif opcode == "GLOBAL":
            self.name_global(str(argument).replace(" ", "."))
        elif opcode == "INST":
            items = self.to_mark()
            self.name_global(str(argument).replace(" ", "."))
            self.call_marked([self.stack.pop(), *items])
        elif opcode in _OUTSIDE:
            # Something outside of the pickle: kept as a description, never resolved.
            if opcode == "BINPERSID":
                self.stack.pop()
            self.name_global(f"{opcode.lower()} {argument}")
        else:
            self.stack.append(_CONSTANTS.get(opcode, argument))

    def take(self, count: int) -> list[object]:
        if len(self.stack) < count:
            raise ValueError("stack underflow")
        taken = self.stack[-count:]
        del self.stack[-count:]
        return taken

    def to_mark(self) -> list[object]:
        items: list[object] = []
        while (item := self.stack.pop()) is not _MARK:
            items.append(item)
        items.reverse()
        return items

    def drop(self) -> None:
        self.stack.pop()

    def drop_mark(self) -> None:
        self.to_mark()

    def remember(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def top(self) -> Node:
        node = self.stack[-1]
        if not isinstance(node, Node):
            raise ValueError("no container on the stack")
        return node

    def extend(self, items: list[object]) -> None:
        self.top().items.extend(items)

    def set_items(self, items: list[object]) -> None:
        self.top().pairs.extend(zip(items[::2], items[1::2], strict=True))

    def build_dict(self, items: list[object]) -> None:
        self.stack.append(Node("dict"))
        self.set_items(items)

    def name_global(self, name: str) -> None:
        self.stack.append(Node("global", name=name[:_NAME_MAX].removeprefix("builtins.")))

    def call(self, target: object, args: object) -> None:
        name = target.name if isinstance(target, Node) else f"<{type(target).__name__}>"
        items = args.items if isinstance(args, Node) else [args]
        if name == "getattr" and len(items) == 2 and isinstance(items[0], Node):
            # How a bound classmethod is written: a longer name, no more than that.
            self.name_global(f"{items[0].name}.{_name(items[1])}")
            return
        if name == _OF_MAIN and len(items) == 2:
            self.name_global(".".join(map(_name, items)))
            return
        if name == _REBUILD and len(items) == 2 and all(isinstance(each, Node) for each in items):
            self.call(*items)
            return
        node = Node("object", name=name)
        if name == "copyreg._reconstructor" and items and isinstance(items[0], Node):
            node.name, items = items[0].name, []
        node.args = list(items)
        self.stack.append(node)

    def call_with_names(self, target: object, args: object, names: object) -> None:
        self.call(target, args)
        self.set_state(names)

    def call_marked(self, parts: list[object]) -> None:
        self.call(parts[0], Node("tuple", parts[1:]))

    def set_state(self, state: object) -> None:
        self.top().state = state


def _name(part: object) -> str:
    return part[:_NAME_MAX] if isinstance(part, str) else f"<{type(part).__name__}>"
