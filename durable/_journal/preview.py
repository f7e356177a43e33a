"""Shows what a payload holds without running anything from it.

Owns the tree that people see, made from the nodes of `opcodes`: where a pickle names a
class or function, the name is kept as text; where it calls one, the call is kept as a
`StandIn`. Nothing is imported, looked up or called on the payload's word, so a hostile
payload can show nonsense and do nothing else.

Invariants: work is bounded by the limits below whatever the bytes say (references that
repeat a value a billion times included); what comes back is a tree of bounded size.

Does not validate: half-readable payloads are the caller's to name.
"""

from __future__ import annotations

import json
import pickletools
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from uuid import UUID

from durable._journal.opcodes import Machine, Node

__all__ = ["StandIn", "preview_json", "preview_pickle"]

_BYTES_MAX = 1024 * 1024  # a larger payload is only named, not shown
_OPCODES_MAX = 25_000  # less than a tenth of a second
_NODES_MAX = 5_000
_DEPTH_MAX = 30
_TEXT_MAX = 4_096
_INT_BITS_MAX = 4_096


class StandIn:
    """Stands for an object that was not built; its `repr` reads like the call that builds it.

    Attributes:
        name: dotted name of the class or function, or a description.
        args: positional parts.
        state: named parts (attributes).
        called: False where only the class or function itself was recorded.
    """

    __slots__ = ("args", "called", "name", "state")

    def __init__(
        self,
        name: str,
        args: tuple[object, ...] = (),
        state: dict[str, object] | None = None,
        *,
        called: bool = False,
    ) -> None:
        self.name = name
        self.args = args
        self.state = state or {}
        self.called = called

    def __repr__(self) -> str:
        if not self.called:
            return f"<{self.name}>"
        parts = [repr(arg) for arg in self.args]
        parts += [f"{name}={value!r}" for name, value in self.state.items()]
        return f"{self.name}({', '.join(parts)})"


def preview_pickle(body: bytes | memoryview) -> object:
    """The tree for a pickle.

    Raises:
        Exception: of any type, if the bytes are no pickle.
    """
    if len(body) > _BYTES_MAX:
        return StandIn(f"{len(body):,} bytes, too large to show")
    machine = Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(bytes(body))):
        if count > _OPCODES_MAX:
            return StandIn(f"{len(body):,} bytes, too many parts to show")
        machine.step(opcode.name, argument)
    return _Tree().expand(machine.stack[-1], 0)


def preview_json(body: bytes) -> object:
    """The tree for JSON text.

    Raises:
        ValueError: the bytes are no JSON.
    """
    if len(body) > _BYTES_MAX:
        return StandIn(f"{len(body):,} bytes, too large to show")
    return _Tree().expand(json.loads(body.decode("utf-8", "surrogatepass")), 0)


def _from_json(value: object) -> object:
    """Return a part of JSON data as a node; what is in it is for later, if it is shown at all."""
    if isinstance(value, list):
        return Node("list", value)
    if isinstance(value, dict):
        node = Node("dict")
        node.pairs = list(value.items())
        return node
    return value


# --- nodes to a bounded tree ----------------------------------------------------------


class _Tree:
    """Copies nodes into plain values until the budget is spent."""

    def __init__(self) -> None:
        self.nodes_left = _NODES_MAX
        self.text_left = _BYTES_MAX

    def expand(self, node: object, depth: int) -> object:
        self.nodes_left -= 1
        if self.nodes_left < 0 or depth > _DEPTH_MAX:
            return StandIn("...")
        node = _from_json(node)
        if not isinstance(node, Node):
            return self.leaf(node)
        if node.kind == "global":
            return StandIn(_plain_name(node.name))
        items = self.sequence(node.items, depth)
        if node.kind == "list":
            return items
        if node.kind == "tuple":
            return tuple(items)
        if node.kind == "dict":
            return self.mapping(node.pairs, depth)
        if node.kind == "object":
            return self.build(node, items, depth)
        return _as_set(node.kind, items)

    def sequence(self, nodes: list[object], depth: int) -> list[object]:
        items: list[object] = []
        for node in nodes:
            if self.nodes_left <= 0:
                items.append(StandIn(f"... {len(nodes) - len(items)} more"))
                break
            items.append(self.expand(node, depth + 1))
        return items

    def mapping(self, pairs: list[tuple[object, object]], depth: int) -> dict[object, object]:
        result: dict[object, object] = {}
        for key_node, value_node in pairs:
            if self.nodes_left <= 0:
                result[StandIn(f"... {len(pairs) - len(result)} more")] = StandIn("...")
                break
            key = self.expand(key_node, depth + 1)
            try:
                result[key] = self.expand(value_node, depth + 1)
            except TypeError:  # only a damaged payload has such a key
                result[StandIn(repr(key)[:80])] = StandIn("...")
        return result

    def build(self, node: Node, items: list[object], depth: int) -> object:
        name = _plain_name(node.name)
        if name == _CODE_NAME:
            return StandIn(name)  # whole functions: nothing that a person wants to read
        args = self.sequence(node.args, depth)
        state = self.state(node.state, depth)
        known = _KNOWN.get(name)
        if known is not None:
            try:
                return known(*args, **state)
            except Exception:
                pass  # not in the form that the type writes: shown as a stand-in
        if items:
            args.append(items)
        if node.pairs:
            args.append(self.mapping(node.pairs, depth))
        return StandIn(name, tuple(args), state, called=True)

    def state(self, node: object, depth: int) -> dict[str, object]:
        if node is None:
            return {}
        value = self.expand(node, depth + 1)
        if isinstance(value, dict):
            return {str(key): item for key, item in value.items()}
        if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], dict):
            halves = [half for half in value if isinstance(half, dict)]
            return {str(key): item for half in halves for key, item in half.items()}
        return {"state": value}

    def leaf(self, value: object) -> object:
        if isinstance(value, (str, bytes, bytearray)):
            return self.text(value)
        if isinstance(value, int) and value.bit_length() > _INT_BITS_MAX:
            return StandIn(f"int of {value.bit_length():,} bits")
        return value

    def text(self, value: str | bytes | bytearray) -> object:
        room = min(_TEXT_MAX, self.text_left)
        self.text_left -= min(room, len(value))
        if len(value) <= room:
            return value
        if isinstance(value, str):
            return f"{value[:room]}... ({len(value) - room:,} more characters)"
        return StandIn(f"{type(value).__name__} of {len(value):,} bytes")


_CODE_NAME = "code recorded by cloudpickle"


def _plain_name(name: str) -> str:
    return _CODE_NAME if name.startswith("cloudpickle.") else name


def _as_set(kind: str, items: list[object]) -> object:
    try:
        return frozenset(items) if kind == "frozenset" else set(items)
    except TypeError:
        return StandIn(kind, tuple(items), called=True)


def _stamped(build: Callable[..., datetime | time], size: int) -> Callable[..., object]:
    # The packed form that datetime and time write into pickles: exactly `size` bytes.
    def rebuild(packed: object, zone: object = None) -> object:
        if not isinstance(packed, bytes) or len(packed) != size:
            raise TypeError
        moment = build(packed)
        if zone is None or isinstance(zone, tzinfo):
            return moment.replace(tzinfo=zone)  # also checks the fields, which build() did not
        name = f"datetime.{type(moment).__name__}"
        return StandIn(name, (moment.isoformat(), zone), called=True)

    return rebuild


def _date(packed: object) -> date:
    if not isinstance(packed, bytes) or len(packed) != 4:
        raise TypeError
    return date(packed).replace()  # type: ignore[call-arg, arg-type]  # checks the fields


def _timedelta(days: object, seconds: object, microseconds: object) -> timedelta:
    if not all(isinstance(part, int) for part in (days, seconds, microseconds)):
        raise TypeError
    return timedelta(days, seconds, microseconds)  # type: ignore[arg-type]


def _uuid(*, int: object) -> UUID:
    return UUID(int=int)  # type: ignore[arg-type]  # UUID checks it


def _decimal(text: object) -> Decimal:
    if not isinstance(text, str):
        raise TypeError
    return Decimal(text)


def _zone(offset: object) -> timezone:
    return timezone(offset)  # type: ignore[arg-type]  # timezone checks it


def _complex(real: object, imag: object) -> complex:
    return complex(real, imag)  # type: ignore[call-overload, no-any-return]


def _bytearray(data: object = b"") -> object:
    return bytearray(data) if isinstance(data, bytes) else StandIn("bytearray", (data,))


# Values that people want to read as they are. Only these are built, by us, from parts
# that were checked; none of them can do anything but hold its value.
_KNOWN: dict[str, Callable[..., object]] = {
    "datetime.datetime": _stamped(datetime, 10),
    "datetime.time": _stamped(time, 6),
    "datetime.date": _date,
    "datetime.timedelta": _timedelta,
    "datetime.timezone": _zone,
    "decimal.Decimal": _decimal,
    "uuid.UUID": _uuid,
    "complex": _complex,
    "bytearray": _bytearray,
}
