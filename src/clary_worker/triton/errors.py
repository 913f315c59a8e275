"""What is wrong with a request or a model, in the words of Triton."""

from __future__ import annotations

UNKNOWN_ID = "<id_unknown>"


class InferError(Exception):
    """A request that fails; its text goes back as {"error": ...} with status 400, as on SageMaker."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


def about(request_id: str, text: str) -> InferError:
    """The error of one request, which names it as Triton does."""
    return InferError("[request id: %s] %s" % (request_id or UNKNOWN_ID, text))
