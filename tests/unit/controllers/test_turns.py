"""Locks by name."""

from __future__ import annotations

import asyncio

from clary.controllers.turns import Turns


async def test_one_at_a_time_of_a_name_and_no_lock_stays() -> None:
    turns, inside, most = Turns(), {"a": 0, "b": 0}, {"a": 0, "b": 0}

    async def visit(name: str) -> None:
        async with turns.of(name):
            inside[name] += 1
            most[name] = max(most[name], inside[name])
            await asyncio.sleep(0.001)
            inside[name] -= 1

    await asyncio.gather(*(visit(name) for name in "ab" * 5))
    assert most == {"a": 1, "b": 1}
    assert len(turns) == 0
