"""`onward publish`: puts the events of a file into the Redis streams of a partitioned run."""

import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from ..streams.base import AbstractSource, Line
from ..streams.events import CSV, JSONL, key_reader
from ..streams.followed import FollowedSource
from ..streams.producer import Producer
from ..streams.redis_source import RedisAddress
from ..streams.sources import FileSource, StandardInput
from ..streams.tables import is_table
from ..support.errors import UserError
from ..support.interruption import Interruption
from .publish_options import PublishOptions
from .shown import say
from .stream_options import StreamOptions
from .stream_settings import format_of, is_redis

AT_ONCE = 1000  # events in one transaction
PATIENCE = 0.2  # seconds to wait for the next line before signals are checked again

Event = tuple[str | None, Mapping[str, object] | bytes]


def publish(options: PublishOptions) -> int:
    """Runs the command and returns its exit code."""
    if options.key is None:
        raise UserError("--key must name the column that decides an event's partition.")
    if options.partitions is None:
        raise UserError("--partitions must be a number, the --partitions of onward stream.")
    if options.redis is None or not is_redis(options.redis):
        raise UserError(f"--redis must be redis://HOST:PORT/DB/NAME, got {options.redis or 'nothing'}.")
    where = options.input or "-"
    if is_redis(where):
        raise UserError("--input must be a file or -, got the address of a Redis stream.")
    form = format_of(StreamOptions(input=where, format=options.format, delimiter=options.delimiter))
    with (
        Producer(RedisAddress.parse(options.redis), options.partitions) as producer,
        _opened(where, form, options.follow) as source,
        Interruption() as interruption,
    ):
        lines = _publish(source, form, options.key, producer, interruption.came)
    say(f"Published {lines:,} lines to {options.partitions} streams.", to=sys.stderr)
    return interruption.exit_code if interruption.came() else 0


def _opened(where: str, form: CSV | JSONL, follow: bool) -> AbstractSource:
    if where == "-":
        return StandardInput(delimiters=form.delimiters)
    path = Path(where)
    if is_table(path):
        raise UserError(f"{where} is a table, and lines are published; write it as CSV or as JSON lines.")
    return (FollowedSource if follow else FileSource)(path, form.delimiters)


def _publish(
    source: AbstractSource, form: CSV | JSONL, key: str, producer: Producer, interrupted: Callable[[], bool]
) -> int:
    """Publishes all lines and returns how many there were."""
    event: Callable[[Line], Event] | None = None
    published = 0
    while not interrupted():
        lines = source.read(AT_ONCE, PATIENCE)
        if lines is None:
            break
        if event is None and lines:
            event, lines = _reader(form, key, lines)
        if event is not None and lines:
            producer.add(map(event, lines))
            published += len(lines)
    return published


def _reader(form: CSV | JSONL, key: str, lines: list[Line]) -> tuple[Callable[[Line], Event], list[Line]]:
    """A function that makes an event of a line, and the lines without the header."""
    if isinstance(form, JSONL):
        form.check_first(lines[0].text)
        key_of = key_reader(form, key, None, wanted=[key])
        return lambda line: (key_of(line.text), line.text), lines
    header, *lines = lines
    key_of = key_reader(form, key, header.text, wanted=[key])
    fields_of = form.field_reader([key], header.text)

    def event(line: Line) -> Event:
        # A line that is no record is published as it is, so that the run reports it.
        return key_of(line.text), fields_of(line.text) or line.text

    return event, lines
