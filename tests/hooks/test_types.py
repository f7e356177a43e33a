"""Payloads are held against the hook's type before they are recorded."""

from __future__ import annotations

import enum
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import InitVar, dataclass, field
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import (
    Annotated,
    Any,
    Generic,
    Literal,
    NamedTuple,
    NewType,
    NotRequired,
    Optional,
    Protocol,
    TypedDict,
    TypeVar,
)
from uuid import UUID

import pytest

from durable import Codec, create_hook, define_hook, get_hook_by_token, resume_hook, workflow
from durable._authoring.fitting import fitter, type_text
from durable.errors import HookPayloadError
from tests.engine.rig import WAIT, crashing, kinds, opened, quiet

T = TypeVar("T")


class Colour(enum.Enum):
    """An enum as any."""

    RED = "r"
    GREEN = "g"


class Point(NamedTuple):
    """A named tuple."""

    x: int
    label: str = "?"


class Filters(TypedDict):
    """A typed dict."""

    limit: int
    after: NotRequired[str]


@dataclass
class Item:
    """A part."""

    name: str
    count: int = 1


@dataclass
class Order:
    """A whole."""

    items: list[Item]
    colour: Colour | None = None
    notes: dict[str, list[str]] = field(default_factory=dict)
    total: int = field(init=False, default=0)
    bonus: InitVar[int] = 0

    def __post_init__(self, bonus: int) -> None:
        self.total = sum(item.count for item in self.items) + bonus
        if self.total > 100:
            raise ValueError("too many")


@dataclass
class Tree:
    """A class that contains itself."""

    value: int
    children: list[Tree] = field(default_factory=list)


@dataclass
class Box(Generic[T]):
    """A generic class."""

    content: T


class Model:
    """Stands for a pydantic model, which is known by this method alone."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and other.number == self.number

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:  # the same in each process of a test run
        return f"Model({self.number})"

    @classmethod
    def model_validate(cls, value: object) -> Model:
        if not isinstance(value, dict) or not isinstance(value.get("number"), int):
            raise ModelError("number", "wanted a number")
        return cls(value["number"])


class ModelError(ValueError):
    """What a model raises: like pydantic's, it lists its errors."""

    def __init__(self, place: str, message: str) -> None:
        super().__init__(message)
        self._place, self._message = place, message

    def errors(self) -> list[dict[str, Any]]:
        return [{"loc": ("items", 0, self._place), "msg": self._message}]


UserId = NewType("UserId", int)
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)

FITTING: list[tuple[Any, object, object]] = [
    (int, 1, 1),
    (float, 1, 1.0),
    (bool, False, False),
    (None, [1], [1]),
    (Any, [1], [1]),
    (type(None), None, None),
    (str | None, None, None),
    (Optional[int], 3, 3),  # noqa: UP045
    (int | str, "x", "x"),
    (datetime | str, "2024-01-01", "2024-01-01"),
    (Literal["yes", 1], "yes", "yes"),
    (Colour, "r", Colour.RED),
    (Colour, Colour.GREEN, Colour.GREEN),
    (datetime, "2024-01-01T12:00:00+00:00", NOON),
    (date, "2024-01-01", date(2024, 1, 1)),
    (time, "12:30", time(12, 30)),
    (UUID, "12345678-1234-5678-1234-567812345678", UUID(int=0x12345678123456781234567812345678)),
    (Decimal, "1.50", Decimal("1.50")),
    (Path, "/tmp", Path("/tmp")),
    (list[int], [1, 2], [1, 2]),
    (list[int], (1, 2), [1, 2]),
    (list, [1, "x"], [1, "x"]),
    (tuple[int, str], [1, "x"], (1, "x")),
    (tuple[int, ...], [1, 2, 3], (1, 2, 3)),
    (set[Colour], ["r", "g", "r"], {Colour.RED, Colour.GREEN}),
    (frozenset[str], ["a"], frozenset({"a"})),
    (Sequence[float], [1, 2.5], [1.0, 2.5]),
    (dict[str, list[date]], {"a": ["2024-01-01"]}, {"a": [date(2024, 1, 1)]}),
    (Mapping[str, int], {"a": 1}, {"a": 1}),
    (Filters, {"limit": 1}, {"limit": 1}),
    (Filters, {"limit": 1, "after": "x"}, {"limit": 1, "after": "x"}),
    (Point, {"x": 1}, Point(1)),
    (Item, {"name": "cup"}, Item("cup")),
    (Item, Item("cup"), Item("cup")),
    (Order, {"items": [{"name": "cup", "count": 2}], "colour": "g", "bonus": 1},
     Order([Item("cup", 2)], Colour.GREEN, bonus=1)),
    (Tree, {"value": 1, "children": [{"value": 2}]}, Tree(1, [Tree(2)])),
    (Box[int], {"content": "anything"}, Box("anything")),
    (Model, {"number": 7}, Model(7)),
    (list[Model], [{"number": 7}], [Model(7)]),
    (Annotated[int, "cents"], 5, 5),
    (UserId, 5, 5),
    (T, [1], [1]),
]  # fmt: skip

MISFITS: list[tuple[Any, object, str, str]] = [
    (int, True, "payload", "must be an int"),
    (int, "5", "payload", "'5' (str), but it must be an int"),
    (float, "5", "payload", "must be a float"),
    (bool, 1, "payload", "must be a bool"),
    (str, b"x", "payload", "must be a str"),
    (type(None), 0, "payload", "must be None"),
    (int | str, [], "payload", "must be int | str"),
    (Item | None, {"name": 1}, 'payload["name"]', "must be a str"),
    (Literal["yes", 1], True, "payload", "one of 'yes', 1"),
    (Colour, "blue", "payload", "Colour has only 'r', 'g'"),
    (datetime, "tomorrow", "payload", "no datetime can be made of it"),
    (date, NOON, "payload", "must be a date"),
    (UUID, "x", "payload", "no UUID can be made of it"),
    (Decimal, "x", "payload", "no Decimal can be made of it"),
    (Decimal, True, "payload", "must be a Decimal"),
    (list[int], "12", "payload", "must be a list"),
    (list[int], [1, "x"], "payload[1]", "must be an int"),
    (tuple[int, str], [1], "payload", "must have 2 items, not 1"),
    (set[Any], [[1]], "payload", "must do in a set"),
    (Sequence[str], "abc", "payload", "must be a Sequence"),
    (dict[str, int], {"a b": None}, 'payload["a b"]', "must be an int"),
    (dict[str, int], {1: 1}, "a key of payload", "must be a str"),
    (dict[int, int], {1: "x"}, "payload[1]", "must be an int"),
    (Filters, {"after": "x"}, 'payload["limit"]', "lacks the field 'limit'"),
    (Filters, {"limit": 1, "offset": 2}, "payload", "unknown field 'offset'"),
    (Point, (1, 2), "payload", "must be a Point, or a dict of its fields"),
    (Item, {"nmae": "cup"}, "payload", "unknown field 'nmae': Item has 'name', 'count'"),
    (Item, {"count": 1}, 'payload["name"]', "lacks the field 'name', which Item needs"),
    (Order, {"items": [{"name": "cup"}, {"name": 2}]}, 'payload["items"][1]["name"]', "a str"),
    (Order, {"items": [], "total": 3}, "payload", "unknown field 'total'"),
    (Order, {"items": [{"name": "cup", "count": 101}]}, "payload", "too many"),
    (Tree, {"value": 1, "children": [{"value": "2"}]}, 'payload["children"][0]["value"]', "int"),
    (Model, {"number": "x"}, 'payload["items"][0]["number"]', "wanted a number"),
]


class Unchecked(Protocol):
    """A protocol that nothing can be held against."""

    def walk(self) -> None: ...


@dataclass
class Dangling:
    """A class whose field names nothing."""

    part: Missing  # type: ignore[name-defined]  # noqa: F821


# --- values --------------------------------------------------------------------------------


@pytest.mark.parametrize(("annotation", "value", "expected"), FITTING)
def test_value_becomes_what_was_asked_for(annotation: Any, value: Any, expected: Any) -> None:
    """And stays as it is once it is of the type."""
    fit = fitter(annotation)
    fitted = value if fit is None else fit(value)
    assert fitted == expected
    assert type(fitted) is type(expected)
    assert fit is None or fit(fitted) is fitted


@pytest.mark.parametrize(("annotation", "value", "path", "told"), MISFITS)
def test_value_of_another_type_is_refused_with_its_path(
    annotation: Any, value: Any, path: str, told: str
) -> None:
    """The message names the part, what it is, and what it must be."""
    fit = fitter(annotation)
    assert fit is not None
    with pytest.raises(HookPayloadError) as caught:
        fit(value)
    assert caught.value.path == path
    assert str(caught.value).startswith((path, "payload"))
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "annotation", ["int", Callable[[], int], Iterator[int], Unchecked, Dangling, 7, list["Item"]]
)
def test_annotation_that_cannot_be_checked_is_refused_at_once(annotation: Any) -> None:
    """Where the hook is created or defined, not when the first payload comes."""
    with pytest.raises(TypeError, match="cannot be the type of a payload"):
        fitter(annotation)
    with pytest.raises(TypeError, match="cannot be the type of a payload"):
        define_hook(annotation)


def test_message_is_short_whatever_the_value() -> None:
    """A huge payload, or one that cannot even be shown, makes no huge message."""

    class Shy:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    fit = fitter(int)
    assert fit is not None
    for value in ("x" * 10_000_000, [Shy()] * 1000, Shy(), {n: n for n in range(10_000)}):
        with pytest.raises(HookPayloadError) as caught:
            fit(value)
        assert len(str(caught.value)) < 500


def test_types_are_shown_as_they_are_written() -> None:
    """For whoever looks at a hook."""
    assert type_text(int) == "int"
    assert type_text(Order) == "Order"
    assert type_text(list[int] | None) == "list[int] | None"
    assert type_text(Optional[int]) == "Optional[int]"  # noqa: UP045


@pytest.mark.skipif(sys.version_info < (3, 12), reason="written with the syntax of 3.12")
def test_named_type_stands_for_its_value() -> None:
    """``type Ids = list[int]``."""
    names: dict[str, Any] = {}
    exec("type Ids = list[int]", names)
    fit = fitter(names["Ids"])
    assert fit is not None
    assert fit((1,)) == [1]


def test_real_pydantic_models_fit() -> None:
    """With their own rules and messages, where pydantic is installed."""
    pydantic = pytest.importorskip("pydantic")
    part = pydantic.create_model("Part", n=(int, ...))
    whole = pydantic.create_model("Whole", parts=(list[part], ...))
    fit = fitter(list[whole])
    assert fit is not None
    fitted = fit([{"parts": [{"n": "3"}]}])
    assert fitted[0].parts[0].n == 3  # type: ignore[index]
    with pytest.raises(HookPayloadError) as caught:
        fit([{"parts": [{"n": 1}, {"n": "x"}]}])
    assert caught.value.path == 'payload[0]["parts"][1]["n"]'


# --- in runs --------------------------------------------------------------------------------


@workflow(name="tests.types.order")
async def order(count: int) -> list[Order]:
    """Wait for orders."""
    hook = create_hook(Order, token="order")
    return [await hook for _ in range(count)]


async def test_payload_that_does_not_fit_leaves_the_run_untouched(tmp_path: Path) -> None:
    """It is refused at the sender; the next one that fits arrives as the type."""
    async with opened(tmp_path / "a.db") as rt:
        run = await rt.start(order, 1)
        await quiet(rt)
        before = await kinds(run)
        for bad in (None, {"items": [{}]}, [], {"items": [], "x": 1}):
            with pytest.raises(HookPayloadError):
                await resume_hook("order", bad)
        await quiet(rt)
        assert await kinds(run) == before
        assert (await get_hook_by_token("order")).type == "Order"
        await resume_hook("order", {"items": [{"name": "cup"}]})
        assert await run.result(WAIT) == [Order([Item("cup")])]


@dataclass
class Stamped:
    """Something that is different whenever it is made."""

    number: int = field(default_factory=lambda: MADE.append(1) or len(MADE))


MADE: list[int] = []


@workflow(name="tests.types.stamped")
async def stamped() -> tuple[int, object]:
    """Wait for one of those, then for anything."""
    first = await create_hook(Stamped, token="stamped")
    return first.number, await create_hook(token="then")


async def test_conversion_is_recorded_and_not_repeated_on_replay(tmp_path: Path) -> None:
    """A type with a default that is never the same twice replays as it was."""
    async with crashing(tmp_path / "a.db") as rt:
        run = await rt.start(stamped)
        await quiet(rt)
        await resume_hook("stamped", {})
        await quiet(rt)
        number = len(MADE)
    async with opened(tmp_path / "a.db"):
        run = await resume_hook("then", None)
        assert await run.result(WAIT) == (number, None)
        assert len(MADE) == number


async def test_types_work_with_json_journals(tmp_path: Path) -> None:
    """JSON cannot hold the object: the plain data is recorded, the body makes the object."""

    @workflow(name="tests.types.json")
    async def as_json() -> list[object]:
        found = await create_hook(Order, token="order")
        return [type(found).__name__, found.total]

    async with opened(tmp_path / "a.db", codec=Codec(format="json")) as rt:
        run = await rt.start(as_json)
        await quiet(rt)
        with pytest.raises(HookPayloadError):
            await resume_hook("order", {"items": [1]})
        await resume_hook("order", {"items": [{"name": "cup", "count": 3}]})
        assert await run.result(WAIT) == ["Order", 3]
