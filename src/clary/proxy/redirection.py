"""Those who wait where nobody is routed to any more: once more, on what the newest route table has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from clary.domain.routing import EndpointRoute
from clary.proxy import answers
from clary.proxy.answers import Refusal
from clary.proxy.forward import FIRST_LINE, Exchange
from clary.proxy.kinds import Wish, fitting

if TYPE_CHECKING:
    from clary.proxy.chain import Chain
    from clary.proxy.dispatch import Dispatcher


def redirect(dispatcher: Dispatcher, exchange: Exchange) -> None:
    """One that was taken out of its line: its endpoint is gone, or has moved."""
    pool = exchange.pool
    endpoint = dispatcher.endpoint(pool.region, pool.endpoint)
    if endpoint is not None and exchange.chain is not None and exchange.chain.place:
        # What the container before made is for this one, which stays until all who are inside have passed.
        exchange.line.append(exchange)
        if exchange.model is not None:
            pool.model_lines[exchange.model] = None
        return
    pool.inside -= 1
    refusal = dispatcher.not_found(pool.endpoint) if endpoint is None else _again(dispatcher, exchange, endpoint)
    if refusal is not None:
        exchange.done = True
        exchange.client.refuse(refusal)


def _again(dispatcher: Dispatcher, exchange: Exchange, endpoint: EndpointRoute) -> Refusal | None:
    """Admits it anew; also where one container has become several, or several one."""
    variant = dispatcher.moved(endpoint, exchange.pool.route)
    if variant is None:
        return dispatcher.not_found(endpoint.name)
    chain = exchange.chain
    wish = chain.wish if chain is not None else _wish(exchange)
    route = fitting(endpoint.name, variant, wish)
    if isinstance(route, Refusal):
        return route
    if exchange.chain is None and not route.containers:
        exchange.pool = dispatcher.pools[route.fleet]
        return dispatcher.enter(exchange, wish.target)
    if exchange.leased:
        return answers.unavailable(f"Endpoint {endpoint.name} has just been updated; ask again.")
    body = exchange.request[len(exchange.request) - exchange.body_bytes :] if exchange.body_bytes else b""
    fields = chain.fields if chain is not None else _fields(exchange)
    client = chain.client if chain is not None else exchange.client
    if chain is not None:
        chain.resign()
    exchange.done = True
    result: Exchange | Chain | Refusal
    if route.containers:
        result = dispatcher.pipeline(client, route, fields, body, exchange.arrived_ns, wish)
    else:
        head = b"".join([*(() if wish.target else (FIRST_LINE,)), *fields, b"Content-Length: %d\r\n\r\n" % len(body)])
        result = dispatcher.submit(client, route, head, body, exchange.arrived_ns, wish)
    if isinstance(result, Refusal):
        client.refuse(result)  # it is counted as those are that are refused when they come
    else:
        client.carry_on(result)
    return None


def _wish(exchange: Exchange) -> Wish:
    target = exchange.model.target if exchange.model is not None else ""
    return Wish(target, exchange.stream, "", exchange.pool.route.container)


def _fields(exchange: Exchange) -> list[bytes]:
    """The header lines of a request that was made for one container."""
    head = (exchange.parts or exchange.request).partition(b"\r\n\r\n")[0]
    kept = (b"content-length", b"host", b"post")
    return [b"%b\r\n" % line for line in head.split(b"\r\n") if not line.lower().startswith(kept)]
