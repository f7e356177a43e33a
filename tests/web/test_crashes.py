"""Processes that receive webhooks and are killed: what was answered with 202 is recorded, once."""

from __future__ import annotations

import concurrent.futures
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx

from durable import Runtime, get_run
from tests.surface.programs import WAIT, Process, Program, spawn

MAIN = "from durable._surface.cli import main; raise SystemExit(main())"
SENDERS = 4
ROUNDS = 2


@contextmanager
def served(folder: Path) -> Iterator[tuple[Process, httpx.Client]]:
    """Serve the shop in a folder; give the process and a client of its address."""
    program = Program(folder, MAIN, "durable_main.py")
    with spawn(program, "serve", "tests.web.shop:app", "--port", "0") as process:
        address = process.until("durable serves").split()[-1]
        with httpx.Client(base_url=address, timeout=WAIT) as client:
            yield process, client


def path_in(line: str) -> str:
    """Return the path of the URL that the shop tells."""
    return httpx.URL(line.rsplit(maxsplit=1)[-1]).path


def send(client: httpx.Client, path: str, delivery: str) -> bool:
    """Deliver once; tell whether it was acknowledged."""
    try:
        answer = client.post(path, content=delivery, headers={"Webhook-Id": delivery})
    except httpx.TransportError:
        return False
    return answer.status_code == 202


async def recorded(folder: Path, run_id: str) -> list[str]:
    """Return the names of the deliveries that a run's history holds, in order."""
    async with Runtime(folder / "durable.db"):
        events = await get_run(run_id).events()
    values = [event.value for event in events if event.kind == "hook_received"]
    assert all(isinstance(value, dict) and value["text"] == value["id"] for value in values)
    return [value["id"] for value in values if isinstance(value, dict)]


async def test_what_was_answered_with_202_is_recorded_once(tmp_path: Path, seed: int) -> None:
    """After any number of kills -9, and though every delivery is sent again after each."""
    draw = random.Random(seed)
    acknowledged: set[str] = set()
    run_id = path = ""
    for number in range(ROUNDS):
        with served(tmp_path) as (process, client):
            if not run_id:
                run_id = client.post("/start/collect").text
                path = path_in(process.until("url "))
            killer = threading.Timer(draw.uniform(0.05, 0.4), process.kill)
            killer.start()
            with concurrent.futures.ThreadPoolExecutor(SENDERS) as pool:
                names = [f"{number}-{n}" for n in range(200)] + sorted(acknowledged)
                sent = pool.map(partial(send, client, path), names)
                acknowledged |= {name for name, told in zip(names, sent, strict=True) if told}
            killer.join()
    found = await recorded(tmp_path, run_id)
    assert len(found) == len(set(found))
    assert acknowledged <= set(found)
    assert acknowledged


def test_process_that_is_killed_after_the_202_has_the_request(tmp_path: Path) -> None:
    """At once, without a moment to write anything more."""
    (tmp_path / "go").touch()
    with served(tmp_path) as (process, client):
        run_id = client.post("/start/serve_one").text
        path = path_in(process.until("url "))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(client.post, path, content="tea")
            process.until("fulfilling")
            assert answer.result().text == "TEA"
        process.kill()
    with served(tmp_path) as (_process, client):
        assert client.get(f"/result/{run_id}").text in {"True", "False"}


def test_client_of_the_owner_takes_requests_too(tmp_path: Path) -> None:
    """A step in the owner answers the sender that waits at the client."""
    with served(tmp_path) as (owner, first), served(tmp_path) as (_client, second):
        run_id = first.post("/start/serve_one").text
        path = path_in(owner.until("url "))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(second.post, path, content="tea")
            owner.until("fulfilling")
            (tmp_path / "go").touch()
            assert (answer.result().status_code, answer.result().text) == (200, "TEA")
        assert second.get(f"/result/{run_id}").text == "True"
        assert second.post(path).status_code == first.post(path).status_code == 404


def test_sender_at_a_client_survives_the_death_of_the_owner(tmp_path: Path) -> None:
    """The client takes over, runs the step again, and answers the sender that still waits."""
    with served(tmp_path) as (owner, first), served(tmp_path) as (client, second):
        run_id = first.post("/start/serve_one").text
        path = path_in(owner.until("url "))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(second.post, path, content="tea")
            owner.until("fulfilling")
            owner.kill()
            client.until("fulfilling")
            (tmp_path / "go").touch()
            assert (answer.result().status_code, answer.result().text) == (200, "TEA")
        assert second.get(f"/result/{run_id}").text == "True"
