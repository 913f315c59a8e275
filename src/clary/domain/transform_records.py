"""Records through InputFilter, and records with predictions through JoinSource and OutputFilter.

The order is the guide's: the input filter shapes what the model sees; the prediction is joined to the input as it was,
not as it was filtered; the output filter shapes what is kept. One prediction a record, in order, or it is an error.
"""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from clary.domain import transform_path
from clary.domain.transform_path import NoMatch, Step
from clary.domain.transform_plan import Format, Handling, SplitType, format_of

OUTPUT = "SageMakerOutput"
INPUT = "SageMakerInput"


class CannotProcess(Exception):
    """A record, or the model's answer, does not fit the data processing asked for. `record`: which one, from 0."""

    def __init__(self, why: str, record: int = 0) -> None:
        super().__init__(why)
        self.record = record


@dataclass(frozen=True, slots=True)
class Processing:
    """DataProcessing of one job, ready for use."""

    form: Format
    lines: bool  # records stand on lines of their own
    input_steps: tuple[Step, ...]
    output_steps: tuple[Step, ...]
    join: bool

    @property
    def shapes_output(self) -> bool:
        return self.join or bool(self.output_steps)

    def before(self, records: list[bytes]) -> tuple[list[bytes], bytes]:
        """The records that are sent (blank lines are none), and the body of them. Raises: CannotProcess."""
        if self.lines:
            records = [record for record in (one.rstrip(b"\r\n") for one in records) if record.strip()]
        if not self.input_steps:
            return records, b"\n".join(records)
        if self.form is Format.CSV and (plain := _plain_csv(self.input_steps, records)) is not None:
            return records, b"\n".join(plain)
        return records, b"\n".join(self._filtered(record, number) for number, record in enumerate(records))

    def _filtered(self, record: bytes, number: int) -> bytes:
        try:
            if self.form is Format.CSV:
                return _csv_line(_as_row(transform_path.select(self.input_steps, _csv_row(record, number))))
            return _json_text(transform_path.select(self.input_steps, _json(record, number, "record")))
        except NoMatch as error:
            raise CannotProcess(f"InputFilter: {error}", number) from error

    def after(self, records: list[bytes], answer: bytes) -> bytes:
        """The output of a batch: a line a record where records are lines. Raises: CannotProcess."""
        if not self.shapes_output:
            return answer
        if not self.lines:
            return self._joined(records[0] if records else b"null", answer, 0)
        answers = [line for line in (one.rstrip(b"\r") for one in answer.split(b"\n")) if line.strip()]
        if len(answers) != len(records):
            raise CannotProcess(f"the model answered {len(records)} records with {len(answers)} lines of predictions")
        if self.form is Format.CSV and self.output_steps:
            both = [b"%b,%b" % pair for pair in zip(records, answers, strict=True)] if self.join else answers
            if (plain := _plain_csv(self.output_steps, both)) is not None:
                return b"\n".join(plain)
        pairs = zip(records, answers, strict=True)
        return b"\n".join(self._joined(record, one, number) for number, (record, one) in enumerate(pairs))

    def _joined(self, record: bytes, answer: bytes, number: int) -> bytes:
        try:
            if self.form is Format.CSV:
                if not self.output_steps:
                    return record + b"," + answer
                row = (_csv_row(record, number) if self.join else []) + _csv_row(answer, number)
                return _csv_line(_as_row(transform_path.select(self.output_steps, row)))
            found = _json(answer, number, "prediction")
            if self.join:
                source = _json(record, number, "record")
                found = {**source, OUTPUT: found} if isinstance(source, dict) else {INPUT: source, OUTPUT: found}
            return _json_text(transform_path.select(self.output_steps, found))
        except NoMatch as error:
            raise CannotProcess(f"OutputFilter: {error}", number) from error


def processing_of(handling: Handling) -> Processing | None:
    """None when bodies pass as they are. Raises: Invalid for a path that is not understood."""
    if not handling.processes:
        return None
    form = format_of(handling.content_type)
    return Processing(
        form=form,
        lines=form is not Format.JSON or handling.split is SplitType.LINE,
        input_steps=transform_path.parse(handling.input_filter),
        output_steps=transform_path.parse(handling.output_filter),
        join=handling.join,
    )


def _plain_csv(steps: tuple[Step, ...], lines: list[bytes]) -> list[bytes] | None:
    """The lines with the named columns only, when no cell is quoted; None when one is, or lacks a column.

    The same as reading and writing each row, at a third of its cost: without a quote a comma always parts two cells.
    """
    if len(steps) != 1 or any(b'"' in line for line in lines):
        return None
    step = steps[0]
    try:
        if step.numbers:
            pick = itemgetter(*step.numbers)
            if len(step.numbers) == 1:
                return [pick(line.split(b",")) for line in lines]
            return [b",".join(pick(line.split(b","))) for line in lines]
        if step.bounds is not None:
            which = slice(*step.bounds)
            return [b",".join(line.split(b",")[which]) for line in lines]
    except IndexError:
        return None  # the slow way names the record
    return lines


def _csv_row(record: bytes, number: int) -> list[str]:
    try:
        text = record.decode()
    except UnicodeDecodeError as error:
        raise CannotProcess(f"it is not UTF-8 text: {error}", number) from error
    if '"' not in text:
        return text.split(",")
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), skipinitialspace=True))
    except csv.Error as error:
        raise CannotProcess(f"it is no CSV: {error}", number) from error
    return rows[0] if rows else []


def _csv_line(row: list[Any]) -> bytes:
    text = ",".join(map(str, row))
    # Exactly as many commas as between cells, and nothing that needs quotes: the usual case.
    if '"' not in text and "\n" not in text and "\r" not in text and text.count(",") == len(row) - 1:
        return text.encode()
    out = io.StringIO()
    csv.writer(out, lineterminator="").writerow(row)
    return out.getvalue().encode()


def _as_row(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _json(text: bytes, number: int, what: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise CannotProcess(f"the {what} is no JSON: {error}", number) from error


def _json_text(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()
