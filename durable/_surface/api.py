"""`start`, `start_many`, `get_run` and `run` on the current runtime.

Owns the checks that a start must pass before anything is recorded: a workflow, fitting
arguments, values that can be stored.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any, ParamSpec, TypeVar, overload

from durable._authoring.context import current_body
from durable._authoring.primitives import get_step_metadata, get_workflow_metadata
from durable._authoring.step import Step, StepOptions
from durable._authoring.workflow import Workflow, find
from durable._base.clock import SystemClock
from durable._base.ids import new_run_id
from durable._base.slices import in_slices
from durable._engine.families import BOUND
from durable._engine.ports import START_STEP, EnginePort, RunSpec
from durable._surface.current import Access, current_runtime
from durable._surface.run import Run
from durable.errors import DurableError, NotAWorkflowError, SerializationError

P = ParamSpec("P")
R = TypeVar("R")

logger = logging.getLogger("durable")

_clock = SystemClock()
_warned: set[str] = set()


@overload
async def start(workflow: Workflow[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Run[R]: ...
@overload
async def start(workflow: str, /, *args: Any, **kwargs: Any) -> Run[Any]: ...
async def start(workflow: Any, /, *args: Any, **kwargs: Any) -> Run[Any]:
    """Start a run and return its handle as soon as it is recorded; never waits for its end.

    Args:
        workflow: what `@workflow` made, with `.options(...)` if need be, or its name.
        args, kwargs: the workflow's own arguments.

    Raises:
        NotAWorkflowError: `workflow` is neither. WorkflowNotRegisteredError: unknown name.
        TypeError: the arguments do not fit the workflow's signature.
        SerializationError: an argument cannot be stored; the message names where it sits.
        RunExistsError, RunConflictError: the chosen `run_id` is taken.
        JournalError: the journal could not record it. In all cases nothing was recorded.

    Inside a workflow body it starts a child run, recorded so that replay does not start
    it again; `Workflow.options` tells what becomes of it at its parent's end. A name that is
    not registered there blocks the parent until it is. Inside a step it is an ordinary start.

    Example:
        ``run = await start(fulfil, "A-17"); print(await run.result())``
    """
    if current_body() is not None:
        return (await _start_in_body([(workflow, args, kwargs)]))[0]
    return (await begin(await current_runtime(), [(workflow, args, kwargs)]))[0]


@overload
async def start_many(
    workflow: Workflow[..., R], arguments: Iterable[Sequence[Any] | Mapping[str, Any]], /
) -> list[Run[R]]: ...
@overload
async def start_many(
    workflow: str, arguments: Iterable[Sequence[Any] | Mapping[str, Any]], /
) -> list[Run[Any]]: ...
async def start_many(
    workflow: Any, arguments: Iterable[Sequence[Any] | Mapping[str, Any]], /
) -> list[Run[Any]]:
    """Start one run for each set of arguments, together in few transactions.

    Args:
        workflow: as for `start`.
        arguments: for each run, a tuple of positional or a mapping of keyword arguments.

    Returns:
        The handles in the order of `arguments`, once all are recorded.

    Raises:
        TypeError: a run's arguments are no tuple, list or mapping, or do not fit.
        Otherwise as `start`; in all cases none of the runs was recorded, but for a taken
        `run_id`, which refuses its own run alone.

    Example:
        ``runs = await start_many(fulfil, [("A-17",), ("A-18",)])``
    """
    calls = calls_of(workflow, arguments)
    if current_body() is not None:
        return await _start_in_body(calls)
    return await begin(await current_runtime(), calls)


def get_run(run_id: str) -> Run[Any]:
    """Return the handle of a run. Lazy: it is not looked up before it is asked something.

    Example:
        ``await get_run("order-17").status()``
    """
    return Run(run_id)


def run(main: Coroutine[Any, Any, R], *, debug: bool | None = None) -> R:
    """Run a program's main coroutine, on uvloop where it is installed; like `asyncio.run`.

    Example:
        ``durable.run(main())``
    """
    with asyncio.Runner(debug=debug, loop_factory=new_event_loop) as runner:
        return runner.run(main)


def new_event_loop() -> asyncio.AbstractEventLoop:
    """Return a new uvloop event loop, or asyncio's own where uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


Call = tuple[Any, tuple[Any, ...], dict[str, Any]]


def calls_of(
    workflow: object, arguments: Iterable[Sequence[Any] | Mapping[str, Any]]
) -> list[Call]:
    """Return the calls that `start_many` is asked for.

    Raises:
        TypeError: a run's arguments are neither a tuple (or list) nor a mapping.
    """
    calls: list[Call] = []
    for given in arguments:
        if isinstance(given, Mapping):
            calls.append((workflow, (), dict(given)))
        elif isinstance(given, (tuple, list)):
            calls.append((workflow, tuple(given), {}))
        else:
            raise TypeError(f"start_many needs a tuple or a mapping for each run, got {given!r}")
    return calls


async def begin(access: Access, calls: Sequence[Call]) -> list[Run[Any]]:
    """Check all calls, record them in one go, return the handles."""
    port = await access.port()  # what was forked is refused before anything waits
    if len(calls) == 1:
        if not access.turnstile.passes():
            await access.turnstile.queue()
        specs = [_specify(access, *calls[0])]
    else:
        specs = await in_slices(lambda call: _specify(access, *call), calls, _clock)
    return await _record(access, port, specs)


async def _record(access: Access, port: EnginePort, specs: Sequence[RunSpec]) -> list[Run[Any]]:
    created = await port.create(specs)
    return [Run(made.run_id, access) for made in created]


def _specify(
    access: Access, workflow: object, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> RunSpec:
    definition = resolve(workflow)
    given = definition.bind(args, kwargs)
    options = definition.settings
    if options.deployment_id == "latest" and not _warned:
        _warned.add("latest")
        logger.warning(
            'deployment_id="latest" changes nothing here: a journal has one current deployment, '
            "the code that is running"
        )
    payload = access.payloads.encode_call(given, kwargs)
    run_id = options.run_id or new_run_id(_clock.wall_us())
    # Should the owner be lost, the creation is repeated and may find its own run.
    origin = secrets.randbits(62) if options.on_conflict == "raise" else 0
    return RunSpec(run_id, definition.name, payload, options, origin=origin, definition=definition)


def resolve(workflow: object) -> Workflow[..., Any]:
    """Return the workflow that `start` was given, or the one registered under its name.

    Raises:
        NotAWorkflowError: it is neither. WorkflowNotRegisteredError: unknown name.
    """
    if isinstance(workflow, str):
        return find(workflow)
    if not isinstance(workflow, Workflow):
        hint = " (a step is called, not started)" if isinstance(workflow, Step) else ""
        raise NotAWorkflowError(
            f"start() needs a @workflow function or the name of one, got {workflow!r}{hint}"
        )
    return workflow


# --- inside bodies: a start is a step, and the child's id is derived from it -----------------


async def _start_in_body(calls: Sequence[Call]) -> list[Run[Any]]:
    for workflow, args, kwargs in calls:
        # What a name means depends on this process, so that is found out, and recorded, in
        # the step; what the code itself gets wrong is told at once.
        if not isinstance(workflow, str):
            definition = resolve(workflow)
            definition.bind(args, kwargs)
            if definition.settings.on_parent_close == "cancel":
                _note_bound()
    own = get_workflow_metadata()
    try:
        return await _start_children(list(calls), own.root_id, own.first_run_id)
    except SerializationError as error:
        refused = error
    _name_culprit(calls)
    raise refused


def _name_culprit(calls: Sequence[Call]) -> None:
    """Raise what is wrong with the arguments of a child, by their places in its own call.

    The step that starts children holds them inside its own argument, and names that.
    """
    body = current_body()
    assert body is not None
    for _, args, kwargs in calls:
        body.payloads.encode_call(args, kwargs)


def _note_bound() -> None:
    """Have the engine look for bound children when this body has ended."""
    body = current_body()
    assert body is not None
    body.scratch[BOUND] = True


async def _start_in_step(calls: list[Call], root_id: str, first_id: str) -> list[Run[Any]]:
    access = await current_runtime()
    parent = get_step_metadata()
    seq = parent.step_id.rpartition(":")[2]
    specs = []
    for index, call in enumerate(calls):
        spec = _specify(access, *call)
        child_id = spec.options.run_id or f"{parent.run_id}.{seq}" + (f".{index}" if index else "")
        specs.append(
            replace(
                spec,
                run_id=child_id,
                options=replace(spec.options, run_id=child_id),
                parent_id=parent.run_id,
                root_id=root_id,
                origin=_origin(parent.step_id),
                bound_to=first_id if spec.options.on_parent_close == "cancel" else None,
            )
        )
    return await _record(access, await access.port(), specs)


def _origin(step_id: str) -> int:
    """Return what tells the children of a step from others, the same in each of its attempts."""
    return int.from_bytes(sha256(step_id.encode()).digest()[:8], "big") >> 2 or 1


_start_children: Step[[list[Call], str, str], list[Run[Any]]] = Step(
    _start_in_step, START_STEP, StepOptions(no_retry_on=DurableError)
)
