"""The engine of another process, through its control socket; and the owner's half of it.

`RemoteEngine` implements `EnginePort` for clients, `serve` answers them. Every call may
be repeated: when the owner is lost in between, the client asks the next owner (or
becomes it), and run ids made by the client keep a repeated creation from doubling.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict
from typing import Any, cast

from durable._authoring.workflow import StartOptions
from durable._engine.ports import Created, EnginePort, RunEnd, RunSpec
from durable._journal.control_client import ControlClient
from durable._journal.records import RunRow
from durable.errors import InternalError

Fields = dict[str, object]

# One message carries this many new runs, or fewer whose arguments have this size in all:
# a message has a limit, and neither process should be busy with one for long.
_SPECS_MAX, _SPECS_BYTES_MAX = 1000, 4 * 1024 * 1024


class RemoteEngine:
    """See the module's docstring."""

    def __init__(self, client: ControlClient) -> None:
        self.client = client

    async def hello(self) -> None:
        """Return when the owner has opened the journal and serves its clients."""
        await self.client.call("hello")

    async def create(self, specs: Sequence[RunSpec]) -> list[Created]:
        """Record runs; see `EnginePort`."""
        created: list[Created] = []
        for portion in _portions(specs):
            created += await self._create(portion)
        return created

    async def _create(self, specs: Sequence[RunSpec]) -> list[Created]:
        rows = [_pack(spec) for spec in specs]
        answer = await self.client.call("create", specs=rows)
        existing = cast("list[list[Any] | None]", answer["existing"])
        return [
            Created(spec.run_id, None if row is None else RunRow(*row))
            for spec, row in zip(specs, existing, strict=True)
        ]

    async def wait_end(self, run_id: str, parked: bool = True) -> RunEnd:
        """Return how the run came to rest; see `EnginePort`."""
        answer = await self.client.call("wait_end", run_id=run_id, parked=parked)
        row = RunRow(*cast("list[Any]", answer["row"]))
        return RunEnd(row, cast("bytes | None", answer["payload"]))

    async def cancel(self, run_id: str, reason: str | None) -> None:
        """Request a cancellation; see `EnginePort`."""
        await self.client.call("cancel", run_id=run_id, reason=reason)

    async def wake_up(self, run_id: str, waits: Sequence[int] | None) -> int:
        """End pending sleeps; see `EnginePort`."""
        chosen = None if waits is None else list(waits)
        answer = await self.client.call("wake_up", run_id=run_id, waits=chosen)
        return cast(int, answer["count"])

    async def resume(self, run_id: str) -> None:
        """Let a blocked run try again; see `EnginePort`."""
        await self.client.call("resume", run_id=run_id)

    async def ask(self, what: str, **fields: Any) -> Any:
        """Ask a part of the owner's engine; see `EnginePort`."""
        return (await self.client.call("ask", what=what, fields=fields))["answer"]


def _portions(specs: Sequence[RunSpec]) -> Iterator[list[RunSpec]]:
    portion: list[RunSpec] = []
    size = 0
    for spec in specs:
        size += len(spec.payload)
        if portion and (len(portion) == _SPECS_MAX or size > _SPECS_BYTES_MAX):
            yield portion
            portion, size = [], len(spec.payload)
        portion.append(spec)
    if portion:
        yield portion


def _pack(spec: RunSpec) -> Fields:
    return {
        "run_id": spec.run_id,
        "workflow": spec.workflow,
        "payload": spec.payload,
        "parent_id": spec.parent_id,
        "root_id": spec.root_id,
        "bound_to": spec.bound_to,
        "made_from": spec.made_from,
        "origin": spec.origin,
        "options": asdict(spec.options),
    }


def _unpack(fields: Fields) -> RunSpec:
    given = cast("dict[str, Any]", fields["options"])
    given["attributes"] = tuple((key, value) for key, value in given["attributes"])
    # The client has made the id, so a repeated creation finds its own run.
    given["run_id"] = given["run_id"] or fields["run_id"]
    rest = {name: fields[name] for name in ("run_id", "workflow", "payload")}
    return RunSpec(
        **cast("dict[str, Any]", rest),
        options=StartOptions(**given),
        parent_id=cast("str | None", fields["parent_id"]),
        root_id=cast("str | None", fields["root_id"]),
        origin=cast(int, fields["origin"]),
        bound_to=cast("str | None", fields["bound_to"]),
        made_from=cast("str | None", fields["made_from"]),
    )


def serve(engine: EnginePort) -> Callable[[str, Fields], Awaitable[Fields]]:
    """Return the handler with which an owner answers its clients."""

    async def hello(fields: Fields) -> Fields:
        return {}

    async def create(fields: Fields) -> Fields:
        specs = [_unpack(spec) for spec in cast("list[Fields]", fields["specs"])]
        created = await engine.create(specs)
        return {"existing": [None if c.existing is None else list(c.existing) for c in created]}

    async def wait_end(fields: Fields) -> Fields:
        end = await engine.wait_end(cast(str, fields["run_id"]), bool(fields["parked"]))
        return {"row": list(end.row), "payload": end.payload}

    async def cancel(fields: Fields) -> Fields:
        await engine.cancel(cast(str, fields["run_id"]), cast("str | None", fields["reason"]))
        return {}

    async def wake_up(fields: Fields) -> Fields:
        waits = cast("list[int] | None", fields["waits"])
        return {"count": await engine.wake_up(cast(str, fields["run_id"]), waits)}

    async def resume(fields: Fields) -> Fields:
        await engine.resume(cast(str, fields["run_id"]))
        return {}

    async def ask(fields: Fields) -> Fields:
        given = cast("dict[str, Any]", fields["fields"])
        return {"answer": await engine.ask(cast(str, fields["what"]), **given)}

    methods = {
        "hello": hello, "create": create, "wait_end": wait_end, "cancel": cancel,
        "wake_up": wake_up, "resume": resume, "ask": ask,
    }  # fmt: skip

    async def handle(method: str, fields: Fields) -> Fields:
        if method not in methods:
            raise InternalError(f"a client asked for the unknown method {method!r}")
        return await methods[method](fields)

    return handle
