"""Tokens: what an attacker outside of the machine would have to guess.

What HTTP requests meet is in tests/web: one 404 for all that leads nowhere
(`test_all_that_leads_nowhere_gets_the_same_404`), limits and time-outs, no token in a log.
"""

from __future__ import annotations

import os

import pytest

from durable._base.ids import new_token, token_hash


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
