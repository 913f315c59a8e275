"""Carrying connections to a user's own server."""

from __future__ import annotations

import asyncio
import socket

from clary_worker.command import _Front


async def test_bytes_that_come_before_the_programs_end_is_open_are_kept() -> None:
    loop = asyncio.get_running_loop()

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(await reader.readexactly(10))
        await writer.drain()
        writer.close()

    program = await asyncio.start_server(echo, "127.0.0.1", 0)
    ours, proxys = socket.socketpair()
    front = _Front(program.sockets[0].getsockname()[1])
    await loop.connect_accepted_socket(lambda: front, ours)
    front.data_received(b"early")  # as Python 3.11.2 does however the transport was paused
    reader, writer = await asyncio.open_unix_connection(sock=proxys)
    writer.write(b"later")
    async with asyncio.timeout(10):
        assert await reader.read() == b"earlylater"
    writer.close()
    program.close()
