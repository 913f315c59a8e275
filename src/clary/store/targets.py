"""The function, queue or topic that an ARN names."""

from __future__ import annotations

from clary.domain.errors import Invalid, Unsupported
from clary.domain.functions import FUNCTION, parse_name
from clary.domain.names import Place
from clary.domain.queues import name_of_arn
from clary.domain.topics import parse_topic_arn
from clary.store.resources import Record, Resources
from clary.store.topics import QUEUE, TOPIC


async def find_target(resources: Resources, arn: str) -> Record | None:
    """None when there is no such thing, or the ARN is of something else."""
    service = [*arn.split(":"), "", "", ""][2]
    try:
        if service == "lambda":
            return await resources.find(FUNCTION, *parse_name(arn, Place()))
        if service == "sns":
            return await resources.find(TOPIC, *parse_topic_arn(arn))
    except (Invalid, Unsupported):
        return None
    named = name_of_arn(arn) if service == "sqs" else None
    return await resources.find(QUEUE, *named) if named is not None else None
