"""Texts token by token, while transformers generates them.

Theory of operation. `generate` is a loop inside transformers that hands each chosen token to a streamer; the model
server wants an iterator. So generation runs on a thread of its own and hands tokens over a short queue: when the caller
reads slowly the thread waits, and when the caller has left, the next token that it hands over ends it by an exception.

An event must say whether its token is the last, because that one carries the whole text. Nobody tells the streamer:
it is foreseen from what ends a generation here (an end token, the number of tokens, a stop text). A token that was
taken for the last, and was not, goes out with the next; an end that nobody foresaw gets a last event of its own.

What ran is the pipeline itself, with a streamer more: the whole text is its own answer.
"""

from __future__ import annotations

import queue
import threading
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Union

from ..contract import RequestError
from . import tasks

QUEUE_TOKENS = 64
WAIT_S = 0.5  # how often a waiting side looks whether the other is still there
UNKNOWN_LIMIT_TOKENS = 256  # where neither the request nor the model says how long a text may be (transformers' own)
_BROKEN = "\ufffd"  # the tokens so far end within a character


class Token(NamedTuple):
    """One event. `text` is set on the last alone; `finish` is "length", "eos_token" or "stop_sequence" then."""

    id: int
    piece: str
    logprob: float
    special: bool
    text: Optional[str] = None
    finish: str = ""


class _Left(Exception):
    """The caller is gone."""


class TokenStream:
    """Iterates over the tokens of one generation; the first has been made when the constructor returns.

    `parameters` are those of the pipeline; `stop` are texts that end the generation and stay in it.

    Raises: what the pipeline raises, in the constructor where it does so before the first token.
    """

    def __init__(self, pipe: Any, inputs: Any, parameters: Dict[str, Any], stop: Sequence[str] = ()) -> None:
        self._queue: "queue.Queue[Union[Token, BaseException, None]]" = queue.Queue(QUEUE_TOKENS)
        self._left = threading.Event()
        self._done = False
        self._thread = threading.Thread(
            target=self._run, args=(pipe, inputs, dict(parameters), tuple(stop)), name="generation", daemon=True
        )
        self._thread.start()
        self._first: Optional[Token] = self._take()

    def __iter__(self) -> Iterator[Token]:
        return self

    def __next__(self) -> Token:
        found, self._first = self._first, None
        if found is None and not self._done:
            found = self._take()
        if found is None:
            raise StopIteration
        return found

    def close(self) -> None:
        """Ends the generation at its next token."""
        self._left.set()

    def _take(self) -> Optional[Token]:
        while True:
            try:
                found = self._queue.get(timeout=WAIT_S)
            except queue.Empty:
                if self._thread.is_alive() or not self._queue.empty():
                    continue
                self._done = True
                raise RuntimeError("the generation ended without a word") from None
            if isinstance(found, Token):
                return found
            self._done = True
            if found is not None:
                raise found
            return None

    def _give(self, item: Union[Token, BaseException, None]) -> None:
        while not self._left.is_set():
            try:
                return self._queue.put(item, timeout=WAIT_S)
            except queue.Full:
                continue
        raise _Left

    def _run(self, pipe: Any, inputs: Any, parameters: Dict[str, Any], stop: Sequence[str]) -> None:
        try:
            watch = _Watch(pipe, parameters, stop, self._give)
            answer = pipe(inputs, streamer=watch, **watch.options(parameters))
            watch.finish(_text(answer))
            self._give(None)
        except _Left:
            return
        except BaseException as error:
            try:
                self._give(error)
            except _Left:
                return


class _Watch:
    """transformers' streamer, logits processor and stopping criterion in one: it sees each token chosen."""

    def __init__(self, pipe: Any, parameters: Dict[str, Any], stop: Sequence[str], give: Any) -> None:
        self._tokenizer = pipe.tokenizer
        self._give = give
        self._stop = stop
        self._stopped = False
        self._prompts = 1  # the streamer is given the prompt, or the decoder's start, before any token
        self._ids: List[int] = []
        self._shown = 0  # ids whose text is out
        self._context = 0  # where the ids begin that the next text is read together with
        self._scores: Any = None
        self._pending: Optional[Token] = None
        self._last: Optional[Token] = None
        self._ends = _ends(pipe, parameters)
        self._limit = _limit(pipe, parameters)
        self._special = frozenset(self._tokenizer.all_special_ids)

    def options(self, parameters: Dict[str, Any]) -> Dict[str, Any]:
        """What the pipeline is called with beside the inputs."""
        from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

        watch = self

        class Scores(LogitsProcessor):  # type: ignore[misc]
            def __call__(self, input_ids: Any, scores: Any) -> Any:
                watch._scores = scores
                return scores

        class Stopped(StoppingCriteria):  # type: ignore[misc]
            def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
                import torch

                return torch.full((input_ids.shape[0],), watch._stopped, dtype=torch.bool)

        found = {**parameters, "logits_processor": LogitsProcessorList([Scores()])}
        if "max_length" not in parameters:
            found["max_new_tokens"] = self._limit
        if self._stop:
            found["stopping_criteria"] = StoppingCriteriaList([Stopped()])
        return found

    # -- streamer

    def put(self, value: Any) -> None:
        if self._prompts:
            self._prompts -= 1
            if value.dim() > 1 and value.shape[0] > 1:
                raise RequestError("a stream is of one text; send several requests")
            if self._limit < 0:  # max_length counts the prompt, too
                self._limit = -self._limit - int(value.shape[-1])
            return
        for number in value.reshape(-1).tolist():
            self._take(int(number))

    def end(self) -> None:
        """transformers' word that no token follows; `finish` comes with the text."""

    def _take(self, number: int) -> None:
        if self._pending is not None:
            self._give(self._pending)
            self._pending = None
        self._ids.append(number)
        token = Token(number, self._piece(), self._logprob(number), number in self._special)
        finish = self._finish(number)
        if finish:
            self._pending = token._replace(finish=finish)
        else:
            self._give(token)
        self._last = token

    def finish(self, text: str) -> None:
        """Sends the last event. Raises: RuntimeError when there was no token at all."""
        token = self._pending
        if token is None:
            if self._last is None:
                raise RuntimeError("the model generated no token")
            token = self._last._replace(piece="", finish="length")
        self._give(token._replace(text=text))

    def _finish(self, number: int) -> str:
        """Why this token is the last, "" when it is not, as far as one can tell."""
        if number in self._ends:
            return "eos_token"
        if self._stop:
            text = self._tokenizer.decode(self._ids, skip_special_tokens=True)
            self._stopped = any(one in text for one in self._stop)
            if self._stopped:
                return "stop_sequence"
        return "length" if len(self._ids) >= self._limit else ""

    def _piece(self) -> str:
        """The text that the newest tokens add; "" while they end within a character.

        A token's text depends on those before it (a space, a joined letter): it is what a little context gains by it.
        """
        known = self._tokenizer.decode(self._ids[self._context : self._shown], skip_special_tokens=False)
        whole = self._tokenizer.decode(self._ids[self._context :], skip_special_tokens=False)
        if len(whole) <= len(known) or whole.endswith(_BROKEN):
            return ""
        self._context, self._shown = self._shown, len(self._ids)
        return str(whole[len(known) :])

    def _logprob(self, number: int) -> float:
        """Of the model's distribution after penalties, before temperature and its like narrow it."""
        import torch

        return float(torch.log_softmax(self._scores[0].float(), -1)[number])


def _ends(pipe: Any, parameters: Dict[str, Any]) -> frozenset[int]:
    config = getattr(pipe, "generation_config", None) or pipe.model.generation_config
    named = parameters.get("eos_token_id", config.eos_token_id)
    if named is None:
        return frozenset()
    return frozenset(named if isinstance(named, (list, tuple)) else [int(named)])


def _limit(pipe: Any, parameters: Dict[str, Any]) -> int:
    """New tokens at most; negative: of prompt and text together."""
    config = getattr(pipe, "generation_config", None) or pipe.model.generation_config
    if parameters.get("max_new_tokens") is not None:
        return int(parameters["max_new_tokens"])
    if parameters.get("max_length") is not None:
        encoder_decoder = bool(pipe.model.config.is_encoder_decoder)
        return int(parameters["max_length"]) - 1 if encoder_decoder else -int(parameters["max_length"])
    return int(getattr(config, "max_new_tokens", None) or UNKNOWN_LIMIT_TOKENS)


def _text(answer: Any) -> str:
    """The one text of a pipeline's answer, whatever its task calls it."""
    while isinstance(answer, list):
        answer = answer[0]
    for name in ("generated_text", "summary_text", "translation_text"):
        if name in answer:
            return str(answer[name])
    raise RuntimeError("the pipeline answered without a text: %s" % ", ".join(answer))


def start(pipe: Any, inputs: Any, parameters: Dict[str, Any], stop: Sequence[str] = ()) -> TokenStream:
    """A stream of the pipeline's text. Raises: RequestError for a task that generates none."""
    task = str(getattr(pipe, "task", ""))
    if not task.startswith(tasks.GENERATING) or getattr(pipe, "tokenizer", None) is None:
        raise RequestError("only generated text is streamed; this model's task is %s" % (task or "none of ours"))
    if isinstance(inputs, list) and not (inputs and isinstance(inputs[0], dict)):
        raise RequestError("a stream is of one text; send several requests")
    if int(parameters.get("num_beams") or 1) > 1 or int(parameters.get("num_return_sequences") or 1) > 1:
        raise RequestError("one text is streamed, as it is made: no beams, no several sequences")
    if "max_time" in parameters:
        raise RequestError("max_time cannot be told ahead, so it is not taken in a stream; give max_new_tokens")
    if task.startswith("text-generation"):
        parameters = {"return_full_text": False, **parameters}
    return TokenStream(pipe, inputs, parameters, stop)
