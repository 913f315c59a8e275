"""Timestamps in the forms of the AWS protocols.

In: whatever a client may send (epoch seconds as number or text, ISO 8601, RFC 1123), always to an aware UTC datetime.
Out: milliseconds at most, as AWS answers; whole seconds carry no fraction except where S3 always writes one.
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


def parse(value: object) -> datetime:
    """An aware UTC datetime. Raises: ValueError for what is no timestamp."""
    if isinstance(value, bool):
        raise ValueError("a boolean is no timestamp")
    if isinstance(value, (int, float)):
        return _from_epoch(value)
    if not isinstance(value, str):
        raise ValueError(f"{type(value).__name__} is no timestamp")
    text = value.strip()
    try:
        return _from_epoch(float(text))
    except ValueError:
        pass  # not a number: one of the textual forms below
    try:
        return aware(parsedate_to_datetime(text) if "," in text else datetime.fromisoformat(text))
    except (OverflowError, TypeError) as error:  # beyond the years 1 to 9999; half a date
        raise ValueError(f"{text[:40]!r} is no timestamp") from error


def _from_epoch(seconds: float) -> datetime:
    if not math.isfinite(seconds):
        raise ValueError(f"{seconds} is no timestamp")
    try:
        return _EPOCH + timedelta(seconds=seconds)
    except OverflowError as error:
        raise ValueError(f"{seconds} s is out of range") from error


def aware(moment: datetime) -> datetime:
    """In UTC; a naive time is taken to be UTC."""
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def epoch(moment: datetime) -> int | float:
    """Seconds since 1970: an integer when whole, else with three decimals."""
    milliseconds = (aware(moment) - _EPOCH) // timedelta(milliseconds=1)
    return milliseconds // 1000 if milliseconds % 1000 == 0 else milliseconds / 1000


def iso8601(moment: datetime, *, always_fraction: bool = False) -> str:
    """2026-01-02T03:04:05Z, with .678 before the Z when there are milliseconds or when asked for."""
    utc = aware(moment)
    text = utc.strftime("%Y-%m-%dT%H:%M:%S").rjust(19, "0")
    milliseconds = utc.microsecond // 1000
    return f"{text}.{milliseconds:03d}Z" if milliseconds or always_fraction else f"{text}Z"


def http_date(moment: datetime) -> str:
    """Fri, 02 Jan 2026 03:04:05 GMT, in every locale."""
    utc = aware(moment)
    return (
        f"{_DAYS[utc.weekday()]}, {utc.day:02d} {_MONTHS[utc.month - 1]} {utc.year:04d} "
        f"{utc.hour:02d}:{utc.minute:02d}:{utc.second:02d} GMT"
    )


def render(moment: datetime, form: str) -> str | int | float:
    """`form` is the model's timestampFormat: unixTimestamp, iso8601 or rfc822 (in any case)."""
    match form.lower():
        case "iso8601":
            return iso8601(moment)
        case "rfc822":
            return http_date(moment)
        case "unixtimestamp":
            return epoch(moment)
    raise ValueError(f"unknown timestamp format {form!r}")
