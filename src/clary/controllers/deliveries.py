"""Messages of topics to HTTP(S) endpoints: at least once, under the same message id, later and later when refused.

An endpoint's name is resolved once for a delivery, every address is checked, and the connection goes to an address that
was: what the name resolves to a moment later changes nothing. No redirect and no proxy is followed.
"""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import ssl
from collections.abc import Callable
from datetime import datetime
from urllib.parse import urlsplit

from clary.domain.topics import BACKOFF_S, Network, may_reach
from clary.store.resources import Record, Resources
from clary.store.topics import Delivery, Topics

log = logging.getLogger(__name__)

LIMIT_S = 5.0
MAX_ANSWER_BYTES = 10 << 20
AT_ONCE = 16
FORGET_EVERY_S = 3600.0


class Refused(Exception):
    """The endpoint may not be asked, or did not take it."""


class Deliveries:
    """One loop."""

    def __init__(
        self, topics: Topics, resources: Resources, allowed: tuple[Network, ...], now: Callable[[], datetime]
    ) -> None:
        self._topics = topics
        self._resources = resources
        self._allowed = allowed
        self._now = now

    async def run(self) -> None:
        """For ever; cancel to stop."""
        loop = asyncio.get_running_loop()
        forget_s = 0.0
        while True:
            self._topics.due.clear()
            due = await self._topics.due_now(AT_ONCE)
            if due:
                await asyncio.gather(*(self._deliver(one) for one in due))
                continue
            if loop.time() >= forget_s:
                forget_s = loop.time() + FORGET_EVERY_S
                await self._topics.forget_old()
            next_us = await self._topics.next_due_us()
            wait_s = FORGET_EVERY_S if next_us is None else next_us / 1_000_000 - self._now().timestamp()
            try:
                async with asyncio.timeout(max(0.0, wait_s)):
                    await self._topics.due.wait()
            except TimeoutError:
                pass  # the next one is due

    async def _deliver(self, delivery: Delivery) -> None:
        found = await self._resources.by_uid(delivery.subscription_uid)
        if found is None:
            await self._topics.delivered(delivery)  # nobody is subscribed any more
            return
        try:
            await asyncio.to_thread(self._post, found[0], delivery)
        except (Refused, OSError, http.client.HTTPException) as error:
            if delivery.attempts >= len(BACKOFF_S):
                log.warning("message=%s endpoint=%s event=given_up", delivery.message_id, found[0].desired["endpoint"])
                await self._topics.delivered(delivery)
                return
            log.info("message=%s event=not_delivered reason=%s", delivery.message_id, error)
            await self._topics.later(delivery, BACKOFF_S[delivery.attempts])
            return
        await self._topics.delivered(delivery)

    def _post(self, record: Record, delivery: Delivery) -> None:
        """Raises: Refused, OSError, HTTPException."""
        facts = json.loads(delivery.attributes)
        url = urlsplit(record.desired["endpoint"])
        host = url.hostname or ""
        port = url.port or (443 if url.scheme == "https" else 80)
        address = self._address(host, port)
        connection = http.client.HTTPConnection(host, port, timeout=LIMIT_S)
        made = socket.create_connection((address, port), timeout=LIMIT_S)
        if url.scheme == "https":
            made = ssl.create_default_context().wrap_socket(made, server_hostname=host)
        connection.sock = made
        headers = {
            "Content-Type": "text/plain; charset=UTF-8",
            "x-amz-sns-message-type": facts.get("type", "Notification"),
            "x-amz-sns-message-id": delivery.message_id,
            "x-amz-sns-topic-arn": record.desired["topic_arn"],
            "User-Agent": "Amazon Simple Notification Service Agent",
        }
        if facts["raw"]:
            headers["x-amz-sns-rawdelivery"] = "true"
        try:
            connection.request(
                "POST", (url.path or "/") + (f"?{url.query}" if url.query else ""), delivery.body.encode(), headers
            )
            answer = connection.getresponse()
            answer.read(MAX_ANSWER_BYTES)
        finally:
            connection.close()
        if not 200 <= answer.status < 300:
            raise Refused(f"it answered {answer.status}")

    def _address(self, host: str, port: int) -> str:
        """An address of the endpoint that may be asked. Raises: Refused, OSError."""
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        for address in found:
            if not may_reach(address, self._allowed):
                raise Refused(f"{host} is at {address}, which is not to be asked (setting webhook_networks)")
        if not found:
            raise Refused(f"{host} has no address")
        return found[0]
