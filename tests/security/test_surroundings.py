"""Tokens, the network and the packages: what an attacker outside of the machine meets.

What HTTP requests meet is in tests/web: one 404 for all that leads nowhere
(`test_all_that_leads_nowhere_gets_the_same_404`), limits and time-outs, no token in a log.
"""

from __future__ import annotations

import ast
import os
import tomllib

import pytest

from durable._base.ids import new_token, token_hash
from tests.style.sources import ROOT, sources

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_tokens_are_256_random_bits() -> None:
    """43 letters, all different, each bit set as often as not."""
    tokens = {new_token() for _ in range(5_000)}
    assert len(tokens) == 5_000
    assert {len(token) for token in tokens} == {43}
    shares = [sum(token[place] < "a" for token in tokens) / 5_000 for place in range(42)]
    assert all(0.55 < share < 0.64 for share in shares)  # 38 of 64 letters, and the two signs
    assert new_token.__code__.co_argcount == 0  # so it is made from nothing that others know
    assert len({token_hash(token) for token in tokens}) == 5_000


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_tokens_of_a_forked_process_are_others() -> None:
    """A generator with a state would repeat itself in the child."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writing, new_token().encode())
        os._exit(0)
    mine = new_token()
    os.waitpid(child, 0)
    theirs = os.read(reading, 100).decode()
    os.close(reading)
    os.close(writing)
    assert len(theirs) == len(mine) == 43
    assert theirs != mine


# What could open a connection, and the one module that listens to the network.
OUTWARD = {"urllib.request", "http.client", "ftplib", "smtplib", "requests", "httpx", "aiohttp"}
LISTENS = {"durable/_surface/serve.py"}
CONNECTS = {"durable/_journal/sockets.py", "durable/_journal/control_client.py"}  # AF_UNIX


def test_the_library_connects_to_nothing_but_its_own_socket() -> None:
    """No module imports a client of the network; sockets are used in two rooms."""
    for source in sources("durable"):
        names: set[str] = set()
        for node in ast.walk(source.tree):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                names.add(node.module or "")
        assert not names & OUTWARD, source.path
        if "socket" in names:
            assert source.path in LISTENS | CONNECTS or "AF_INET" not in source.text, source.path
        if source.path not in LISTENS:
            assert "AF_INET" not in source.text, source.path
            assert "open_connection" not in source.text, source.path


def test_the_packages_that_are_always_installed_are_three() -> None:
    """All others are extras that their users ask for."""
    names = {requirement.split(">")[0] for requirement in PROJECT["dependencies"]}
    assert names == {"aiosqlite", "cloudpickle", "uvloop"}
    assert set(PROJECT["optional-dependencies"]) >= {"crypto", "web", "test", "dev"}
    for extra in PROJECT["optional-dependencies"].values():
        assert all(any(sign in each for sign in (">=", "~=", "<=", "durable[")) for each in extra)


def test_no_secret_is_drawn_from_a_generator_that_can_be_guessed() -> None:
    """`random` is for pauses and for bodies; keys, tokens and ids come from the system."""
    users = {s.path for s in sources("durable") if "import random" in s.text}
    assert users.isdisjoint({
        "durable/_base/ids.py", "durable/_journal/keys.py", "durable/_journal/seals.py",
    })  # fmt: skip
    for path in ("durable/_base/ids.py", "durable/_journal/keys.py"):
        assert "secrets." in (ROOT / path).read_text()
    assert "os.urandom(" in (ROOT / "durable/_journal/seals.py").read_text()
