"""A request on its way through a pipeline: the answer of each container is the request of the next.

A `Chain` is the client of its own steps: each `Step` is an exchange like any other (admission, queue, retry, health),
whose answer comes back here and not to the caller; that of the last one passes on, streamed where it is large. No task,
and one answer at a time in memory, bounded as a response is.

What a container gets: the caller's SageMaker headers, with the custom attributes of the container before it where that
one gave some; the Content-Type of what it is sent; and, the last one only, the caller's Accept. Those before it choose
by SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT, or by their own default.

Time: the containers together have what one has (60 s), and all waiting together what one request may wait. From its
first step on a chain is inside all containers that are to come, so none of them goes away before it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from time import perf_counter_ns
from typing import TYPE_CHECKING

from clary.domain.containers import handed_on, headers_for
from clary.domain.routing import VariantRoute
from clary.proxy.admission import Pool, Worker
from clary.proxy.answers import Refusal
from clary.proxy.forward import FIRST_LINE, Exchange
from clary.proxy.kinds import Wish
from clary.proxy.meter import Answered, Slot

if TYPE_CHECKING:
    from clary.proxy.dispatch import Dispatcher
    from clary.proxy.server import FrontConnection


class Step(Exchange):
    """One container's part of a chain."""

    __slots__ = ("chain", "inner")
    chain: Chain

    def __init__(self, chain: Chain, pool: Pool, request: bytes, body_bytes: int, inner: bool) -> None:
        super().__init__(chain, pool, request, body_bytes, perf_counter_ns())  # type: ignore[arg-type]
        self.chain = chain
        self.inner = inner

    @property
    def limit_s(self) -> float:
        return self.chain.left_s

    @property
    def patience_s(self) -> float:
        return self.chain.patience_s

    @property
    def asked(self) -> tuple[bytes, int]:
        return self.chain.request, self.chain.body_bytes


class Chain:
    """See the module. `fields` are the caller's header lines that containers are to see."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        client: FrontConnection,
        route: VariantRoute,
        fields: Sequence[bytes],
        body: bytes,
        arrived_ns: int,
        wish: Wish,
    ) -> None:
        self._dispatcher = dispatcher
        self.client = client
        self.route = route
        self.pools = [dispatcher.pools[one.fleet] for one in route.containers]
        self._account: Slot = self.pools[0].meter
        self.fields = fields
        self._headers = _headers(fields)  # those of the present step
        self.body = body
        self.body_bytes = len(body)
        self.arrived_ns = arrived_ns
        self.wish = wish
        self.place = 0
        self.step: Step | None = None
        self.left_s = route.request_timeout_s
        self.patience_s = route.queue_timeout_s
        self.model_us = 0
        self.captured = False
        self.done = False

    @property
    def request(self) -> bytes:
        """What the caller sent, as data capture keeps it."""
        return FIRST_LINE + b"".join(self.fields) + b"\r\n" + self.body

    # -- its steps -------------------------------------------------------------------------------

    def begin(self, now_s: float) -> Refusal | None:
        """Admits the first step, and wakes all containers that sleep, side by side."""
        for pool in self.pools:
            pool.arrived(now_s)
        for pool in self.pools[1:]:
            pool.inside += 1
        refusal = self._enter(self.body)
        if refusal is not None:
            self._leave()
            return refusal
        for pool in self.pools[1:]:
            self._dispatcher.rouse(pool)
        if not self.captured:
            self.body = b""  # the step has it
        return None

    def _enter(self, body: bytes) -> Refusal | None:
        pool, last = self.pools[self.place], self.place == len(self.pools) - 1
        if self.place:
            pool.inside -= 1  # from here on the step holds the place
        target = self.wish.target if pool.route.multi_model else ""
        head = _head(headers_for(self._headers, last), len(body))
        request = (head if target else FIRST_LINE + head) + body
        self.step = step = Step(self, pool, request, len(body), not last)
        step.stream = last and self.wish.stream
        step.captured = last and self.captured
        return self._dispatcher.enter(step, target)

    def passed(self, step: Exchange, content_type: bytes, attributes: bytes, body: bytes, model_us: int) -> None:
        """A container before the last has answered well."""
        self._took(step, model_us)
        self.left_s = max(0.0, self.left_s - model_us / 1e6)
        self.patience_s = max(0.0, self.patience_s - (step.sent_ns - step.arrived_ns) / 1e9)
        self.place += 1
        self._headers = handed_on(self._headers, content_type.decode("latin-1"), attributes.decode("latin-1"))
        refusal = self._enter(body)
        if refusal is not None:
            self.refuse(refusal)

    def _took(self, step: Exchange, model_us: int) -> None:
        self.model_us += model_us
        steps = step.pool.steps
        if steps is not None:
            steps.step(model_us)

    def _leave(self) -> None:
        self.done = True
        for pool in self.pools[self.place + 1 :]:
            pool.inside -= 1

    def resign(self) -> None:
        """Its first step was never sent, and is not to be: another begins with the same request."""
        self._leave()

    def client_gone(self) -> None:
        """Nobody waits any more: the step's slot is freed, and no further one is taken."""
        if not self.done and self.step is not None:
            self._leave()
            self._dispatcher.client_gone(self.step)

    def resume_upstream(self) -> None:
        """The caller reads again."""
        if self.step is not None and self.step.upstream is not None:
            self.step.upstream.resume()

    # -- as the client of its steps: what they say goes to the caller -----------------------------

    @property
    def keep_open(self) -> bool:
        return self.client.keep_open

    @property
    def congested(self) -> bool:
        return self.client.congested

    def write(self, data: bytes) -> None:
        self.client.write(data)

    def settle(self, data: bytes, slot: Slot, answered: Answered) -> None:
        """The last container's answer, or the error of any: it ends the chain, and the whole of it is counted."""
        assert self.step is not None
        self._took(self.step, answered.model_us)
        self._leave()
        self.client.settle(data, slot, self._answered(answered.status, answered.response_bytes))

    def refuse(self, refusal: Refusal) -> None:
        self._give_up(500 if refusal.code == "ModelError" else refusal.status)
        self.client.refuse(refusal)

    def abort(self) -> None:
        self._give_up(500)
        self.client.abort()

    def granted(self, worker: Worker, variant: str) -> None:
        raise TypeError("a step of ours is sent, not granted")

    def _give_up(self, status: int) -> None:
        step = self.step
        if step is not None and step.worker is not None and step.sent_ns:
            self._took(step, (perf_counter_ns() - step.sent_ns) // 1000)
        self._leave()
        self._account.answered(self._answered(status, 0))

    def _answered(self, status: int, response_bytes: int) -> Answered:
        overhead_us = max(0, (perf_counter_ns() - self.arrived_ns) // 1000 - self.model_us)
        return Answered(status, self.model_us, overhead_us, self.body_bytes, response_bytes, False)


def _headers(fields: Iterable[bytes]) -> list[tuple[str, str]]:
    pairs = (field.decode("latin-1").partition(":") for field in fields)
    return [(name.strip().lower(), value.strip()) for name, _, value in pairs]


def _head(headers: Iterable[tuple[str, str]], length_bytes: int) -> bytes:
    lines = [f"{name}: {value}\r\n" for name, value in headers]
    return "".join([*lines, f"content-length: {length_bytes}\r\n\r\n"]).encode("latin-1")
