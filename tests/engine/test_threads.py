"""The thread pool runs sync functions beside the loop and never waits for a stuck one."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Iterator

import pytest

from durable._engine.threads import ThreadPool

WAIT = 30.0  # seconds until a test gives up

var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="unset")


@pytest.fixture
def pool() -> Iterator[ThreadPool]:
    """A pool of two threads."""
    made = ThreadPool(2)
    yield made
    made.close()


class Outcome:
    """Collects what `done` is called with."""

    def __init__(self) -> None:
        self.future: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.threads: list[int] = []

    def __call__(self, value: object, error: BaseException | None) -> None:
        """Be a `done`."""
        self.threads.append(threading.get_ident())
        self.future.set_result(value if error is None else error)

    async def get(self) -> object:
        """Return the value or the exception."""
        return await asyncio.wait_for(self.future, WAIT)


def submit(pool: ThreadPool, fn: Callable[[], object]) -> tuple[Outcome, object]:
    """Submit to the running loop."""
    outcome = Outcome()
    return outcome, pool.submit(fn, outcome, asyncio.get_running_loop())


class Blocker:
    """A function that blocks until it is let go."""

    def __init__(self) -> None:
        self.entered = threading.Event()
        self.go = threading.Event()
        self.left = threading.Event()

    def __call__(self) -> str:
        """Block."""
        self.entered.set()
        assert self.go.wait(WAIT)
        self.left.set()
        return "late"


async def until(condition: Callable[[], bool]) -> None:
    """Yield to the loop and to threads until the condition holds."""
    for _ in range(100_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("the condition did not come true")


@pytest.mark.both_loops
async def test_result_arrives_on_the_loop_and_the_function_ran_elsewhere(pool: ThreadPool) -> None:
    """The function runs in a thread of the pool, `done` on the loop's thread."""
    outcome, _ = submit(pool, threading.get_ident)
    assert await outcome.get() != threading.get_ident()
    assert outcome.threads == [threading.get_ident()]


@pytest.mark.parametrize(
    "kind", [ValueError, SystemExit, KeyboardInterrupt, GeneratorExit, asyncio.CancelledError]
)
async def test_whatever_a_function_raises_goes_to_done(
    pool: ThreadPool, kind: type[BaseException]
) -> None:
    """Exceptions that end programs are a step's outcome like any other."""
    error = kind("x")

    def fn() -> None:
        raise error

    outcome, _ = submit(pool, fn)
    assert await outcome.get() is error
    outcome, _ = submit(pool, lambda: "next")
    assert await outcome.get() == "next"


async def test_function_sees_the_callers_context_variables(pool: ThreadPool) -> None:
    """A copy by default, or the context given."""
    token = var.set("mine")
    outcome, _ = submit(pool, var.get)
    context = contextvars.copy_context()
    var.reset(token)
    assert await outcome.get() == "mine"
    other = Outcome()
    pool.submit(var.get, other, asyncio.get_running_loop(), context=context)
    assert await other.get() == "mine"


async def test_no_more_threads_run_than_allowed(pool: ThreadPool) -> None:
    """What is beyond the limit waits, visibly, and runs later."""
    blockers = [Blocker() for _ in range(5)]
    outcomes = [submit(pool, blocker)[0] for blocker in blockers]
    await until(lambda: pool.running == 2)
    assert pool.queued == 3
    assert sum(blocker.entered.is_set() for blocker in blockers) <= 2
    for blocker in blockers:
        blocker.go.set()
    assert [await outcome.get() for outcome in outcomes] == ["late"] * 5


async def test_thread_is_used_again(pool: ThreadPool) -> None:
    """Calls one after the other start one thread."""
    seen = set()
    for _ in range(20):
        outcome, _ = submit(pool, threading.get_ident)
        seen.add(await outcome.get())
        await until(lambda: pool.running == 0)
    assert len(seen) == 1


async def test_call_abandoned_in_the_queue_never_runs(pool: ThreadPool) -> None:
    """Its function is not called, and its result not awaited by anybody."""
    blockers = [Blocker(), Blocker()]
    held = [submit(pool, blocker)[0] for blocker in blockers]
    ran: list[int] = []
    outcome = Outcome()
    ticket = pool.submit(lambda: ran.append(1), outcome, asyncio.get_running_loop())
    assert pool.queued >= 1
    await until(lambda: pool.queued == 1)
    ticket.abandon()
    ticket.abandon()
    assert pool.queued == 0
    for blocker in blockers:
        blocker.go.set()
    for other in held:
        await other.get()
    last, _ = submit(pool, lambda: "last")
    assert await last.get() == "last"
    assert (ran, outcome.threads) == ([], [])


async def test_abandoned_call_gives_its_slot_back_and_its_late_result_is_dropped(
    pool: ThreadPool,
) -> None:
    """Stuck functions do not use the pool up, and what they return is nobody's."""
    stuck = [Blocker() for _ in range(6)]
    dropped = []
    for blocker in stuck:
        outcome = Outcome()
        ticket = pool.submit(blocker, outcome, asyncio.get_running_loop())
        await until(blocker.entered.is_set)
        ticket.abandon()
        dropped.append(outcome)
    assert pool.stuck == 6
    outcome, _ = submit(pool, lambda: "alive")
    assert await outcome.get() == "alive"
    for blocker in stuck:
        blocker.go.set()
    await until(lambda: pool.stuck == 0)
    outcome, _ = submit(pool, lambda: "still alive")
    assert await outcome.get() == "still alive"
    assert all(not other.threads for other in dropped)


async def test_queued_call_starts_when_a_stuck_one_is_abandoned() -> None:
    """A replacement thread starts at once; nothing waits for the stuck one."""
    pool = ThreadPool(1)
    stuck = Blocker()
    ticket = pool.submit(stuck, Outcome(), asyncio.get_running_loop())
    await until(stuck.entered.is_set)
    outcome, _ = submit(pool, lambda: "next")
    ticket.abandon()
    assert await outcome.get() == "next"
    stuck.go.set()
    pool.close()


async def test_call_abandoned_after_its_return_is_not_delivered(pool: ThreadPool) -> None:
    """Between the function's return and the loop's turn there is still time to abandon."""
    outcome = Outcome()
    returned = threading.Event()
    ticket = pool.submit(returned.set, outcome, asyncio.get_running_loop())
    assert returned.wait(WAIT)
    ticket.abandon()
    other, _ = submit(pool, lambda: 1)
    await other.get()
    assert outcome.threads == []


async def test_done_that_raises_does_not_keep_other_results_back(pool: ThreadPool) -> None:
    """The loop's exception handler hears of it, and the rest is delivered."""
    loop = asyncio.get_running_loop()
    reported: list[object] = []
    loop.set_exception_handler(lambda _, context: reported.append(context["exception"]))
    error = ValueError("in done")

    def done(*_: object) -> None:
        raise error

    calls = [Blocker() for _ in range(2)]
    pool.submit(calls[0], done, loop)
    outcome, _ = submit(pool, calls[1])
    for call in calls:
        call.go.set()
    assert all(call.left.wait(WAIT) for call in calls)
    assert await outcome.get() == "late"
    await until(lambda: reported == [error])


class CountingLoop(asyncio.SelectorEventLoop):
    """A loop that counts its wake-ups."""

    wakeups = 0

    def call_soon_threadsafe(self, callback, *args, context=None):  # type: ignore[no-untyped-def, override]
        """Count."""
        self.wakeups += 1
        return super().call_soon_threadsafe(callback, *args, context=context)


def test_results_that_arrive_while_the_loop_is_busy_share_one_wake_up() -> None:
    """A thousand results, one hop."""
    loop, pool = CountingLoop(), ThreadPool(1)
    seen: list[object] = []
    last = threading.Event()
    for number in range(1000):
        pool.submit(lambda number=number: number, lambda value, _: seen.append(value), loop)  # type: ignore[misc]
    pool.submit(last.set, lambda *_: loop.stop(), loop)
    assert last.wait(WAIT)
    loop.run_forever()
    assert seen == list(range(1000))
    assert loop.wakeups <= 2  # the last result may have come behind `last.set`
    pool.close()
    loop.close()


def test_result_for_a_closed_loop_is_dropped_silently() -> None:
    """The thread lives on and serves the next loop."""
    pool, loop, blocker = ThreadPool(1), asyncio.new_event_loop(), Blocker()
    pool.submit(blocker, lambda *_: None, loop)
    assert blocker.entered.wait(WAIT)
    loop.close()
    blocker.go.set()

    async def body() -> object:
        outcome, _ = submit(pool, lambda: "next")
        return await outcome.get()

    assert asyncio.run(body()) == "next"
    pool.close()


async def test_closing_waits_for_nobody_and_refuses_what_comes_later() -> None:
    """A stuck call goes on by itself, a queued one is forgotten."""
    pool, stuck = ThreadPool(1), Blocker()
    submit(pool, stuck)
    await until(stuck.entered.is_set)
    queued, _ = submit(pool, lambda: 1)
    pool.close()
    pool.close()
    assert not stuck.left.is_set()
    with pytest.raises(RuntimeError, match="closed"):
        submit(pool, lambda: 1)
    stuck.go.set()
    await until(lambda: pool.running == 0)
    assert queued.threads == []


async def test_finished_call_keeps_neither_function_nor_value_nor_exception(
    pool: ThreadPool,
) -> None:
    """An idle thread and a kept ticket hold nothing of the step, without a collection."""

    class Value:
        pass

    def fail(held: object) -> None:
        raise ValueError(held)

    refs: list[weakref.ref[Value]] = []
    tickets = []
    gc.disable()
    try:
        for fn in (lambda held: held, fail):
            value = Value()
            refs.append(weakref.ref(value))
            outcome, ticket = submit(pool, lambda fn=fn, held=value: fn(held))  # type: ignore[misc]
            tickets.append(ticket)
            await outcome.get()
            del value, outcome
        await until(lambda: pool.running == 0)
        del fn
        await until(lambda: all(ref() is None for ref in refs))
    finally:
        gc.enable()


def test_interpreter_ends_although_a_call_is_stuck() -> None:
    """The end of the program does not wait, closed pool or not."""
    program = """if True:
        import asyncio, threading
        from durable._engine.threads import ThreadPool
        entered = threading.Event()
        async def main():
            pool = ThreadPool()
            pool.submit(lambda: (entered.set(), threading.Event().wait()), print,
                        asyncio.get_running_loop())
            entered.wait()
            pool.submit(lambda: None, lambda *_: None, asyncio.get_running_loop())
        asyncio.run(main())
        print("end")
    """
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=WAIT, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_pool_without_threads_is_refused() -> None:
    """The number and the cure are named."""
    with pytest.raises(ValueError, match="max_threads is 0: give at least 1"):
        ThreadPool(0)
