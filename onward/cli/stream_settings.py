"""From options to the settings of a stream, with every check that needs no training, and to its source."""

import os
import re
import secrets
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import UNSET, UnsetType

from ..registry.method_names import STREAM, Count, Method, Positive
from ..streams.base import AbstractSource
from ..streams.engine import usual_rate
from ..streams.events import CSV, JSONL, Columns
from ..streams.followed import FollowedSource
from ..streams.redis_source import RedisAddress, RedisSource
from ..streams.sources import FileSource, StandardInput
from ..streams.tables import TableSource, is_table
from ..support.errors import UserError
from ..support.printable import in_utf_8
from .settings import chosen_method, other_settings
from .stream_options import StreamOptions

KEYS_IN_MEMORY = 1000


class Learning(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Everything that determines the numbers of a stream, apart from its events.

    * `partitions`: into how many partitions the keys are cut; `partition`: which of them this is. A stream that is not
      partitioned has neither, and they are left out of JSON; the run as a whole has no `partition`;
    * `share_weights`: lines a partition between two averages of the partitions' weights; left out if there are none.
    """

    columns: Columns
    horizon: Annotated[int, msgspec.Meta(ge=0, le=10**4)]
    gap: Positive | None
    keys_in_memory: Count
    method_name: str
    method: Method
    seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
    partitions: Annotated[int, msgspec.Meta(ge=1, le=1024)] | UnsetType = UNSET
    partition: Annotated[int, msgspec.Meta(ge=0, lt=1024)] | UnsetType = UNSET
    share_weights: Count | UnsetType = UNSET

    def describe(self) -> str:
        """What is learned and how, in a line."""
        target = f"{self.columns.target!r}"
        what = f"{target}, {self.horizon} events ahead" if self.horizon > 1 else f"the next {target}"
        what = target if not self.horizon else what
        method = self.method
        return f"{what}, by {self.method_name}, {method.cell} with {method.hidden_size} units, rate {method.rate:g}"


class StreamSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The contents of a stream's `settings.json`.

    * `input`, `follow`: where the events come from; this may change when the run is resumed;
    * `group`: the run's own consumer group in Redis;
    * `workers`: how many processes learn its partitions; this may change too.
    """

    input: str
    follow: bool
    group: str
    learning: Learning
    workers: Annotated[int, msgspec.Meta(ge=1)] | UnsetType = UNSET


def new_stream_settings(options: StreamOptions) -> StreamSettings:
    """The settings of a new run. Raises `UserError` if options do not go together."""
    if options.target is None:
        raise UserError("--target must name the column to predict.")
    horizon = 1 if options.horizon is None else options.horizon
    inputs = options.inputs
    if inputs is None:
        if options.classes is not None or not horizon:
            raise UserError("--inputs must name the columns of numbers to predict from, such as --inputs a,b,c.")
        inputs = (options.target,)
    if not horizon and options.target in inputs:
        raise UserError(f"--horizon 0 predicts {options.target!r} of an event, so it cannot be among its --inputs.")
    if options.gap is not None and options.time is None:
        raise UserError("--gap needs --time, the column that tells when an event happened.")
    if options.partitions is not None and options.key is None:
        raise UserError("--partitions needs --key, the column that names a sequence.")
    if options.keys_in_memory is not None and options.key is None:
        raise UserError("--keys-in-memory needs --key, the column that names a sequence.")
    try:
        columns = Columns(
            format_of(options),
            inputs,
            options.target,
            key=options.key,
            time=options.time,
            classes=options.classes,
            fill=options.fill,
        )
    except ValueError as error:
        raise UserError(f"{error}") from None
    name = options.method or STREAM.default
    method = chosen_method(STREAM, name, cell=options.cell, hidden_size=options.hidden_size, rate=options.rate)
    if options.rate is None and method.optimizer == "adam":
        method = method.but(rate=usual_rate(horizon))
    where = options.input or "-"
    return StreamSettings(
        input=_written_down(where),
        follow=options.follow,
        group=_new_group(),
        learning=Learning(
            columns=columns,
            horizon=horizon,
            gap=options.gap,
            keys_in_memory=1 if options.key is None else options.keys_in_memory or KEYS_IN_MEMORY,
            method_name=name,
            method=method,
            seed=options.seed or 0,
            partitions=UNSET if options.partitions is None else options.partitions,
            share_weights=UNSET if options.share_weights is None else options.share_weights,
        ),
        workers=_workers(options, options.partitions),
    )


def stream_settings_again(options: StreamOptions, settings: StreamSettings, folder: Path) -> StreamSettings:
    """The settings of a resumed run, with another input if that is given.

    Raises `UserError` if any other option differs from the run's settings.
    """
    learning, columns = settings.learning, settings.learning.columns
    if learning.partition is not UNSET:
        raise UserError(f"{folder} is a partition of a run; name the folder of the whole run.")
    partitions = None if learning.partitions is UNSET else learning.partitions
    stored = {
        "target": columns.target,
        "inputs": columns.inputs,
        "classes": columns.classes,
        "key": columns.key,
        "keys_in_memory": learning.keys_in_memory,
        "time": columns.time,
        "gap": learning.gap,
        "horizon": learning.horizon,
        "method": learning.method_name,
        "cell": learning.method.cell,
        "hidden_size": learning.method.hidden_size,
        "rate": learning.method.rate,
        "seed": learning.seed,
        "format": "csv" if isinstance(columns.format, CSV) else "jsonl",
        "delimiter": columns.format.delimiter if isinstance(columns.format, CSV) else None,
        "decimal": columns.format.decimal if isinstance(columns.format, CSV) else None,
        "fill": columns.fill,
        "partitions": partitions,
        "share_weights": None if learning.share_weights is UNSET else learning.share_weights,
    }
    for name, value in stored.items():
        given = getattr(options, name)
        if given is not None and given != value:
            option = f"--{name.replace('_', '-')}"
            has = f"no {option}" if value is None else f"{option} {_shown(value)}"
            raise other_settings(folder, has, f"{option} {_shown(given)}")
    where = options.input or settings.input
    return msgspec.structs.replace(
        settings,
        input=_written_down(where),
        follow=settings.follow or options.follow,
        workers=settings.workers if options.workers is None else _workers(options, partitions),
    )


def _workers(options: StreamOptions, partitions: int | None) -> int | UnsetType:
    """The number of workers. Raises `UserError` if the options do not go together."""
    if partitions is None:
        for name in ("workers", "lease", "ray", "share_weights"):
            if getattr(options, name) is not None:
                option = f"--{name.replace('_', '-')}"
                raise UserError(f"{option} needs --partitions, the number of parts into which the keys are cut.")
        return UNSET
    if options.workers is not None and options.workers > partitions:
        raise UserError(f"--workers must be at most --partitions, {partitions}, got {options.workers}.")
    return options.workers or min(partitions, os.cpu_count() or 1)


def of_partition(learning: Learning, number: int) -> Learning:
    """What determines the numbers of one partition."""
    return msgspec.structs.replace(learning, partition=number)


def predict_settings(settings: StreamSettings, options: StreamOptions) -> StreamSettings:
    """The settings for predicting another input with the model of a run, in a Redis group of its own."""
    learning = settings.learning
    form = format_of(options)
    if options.input in (None, "-") or type(form) is type(learning.columns.format):
        form = learning.columns.format
    return StreamSettings(
        input=_written_down(options.input or "-"),
        follow=options.follow,
        group=_new_group(),
        learning=msgspec.structs.replace(learning, columns=msgspec.structs.replace(learning.columns, format=form)),
    )


def open_source(options: StreamOptions, settings: StreamSettings) -> AbstractSource:
    """The source of the events. Raises `UserError` if it cannot be read."""
    where, columns = settings.input, settings.learning.columns
    if where == "-":
        if settings.follow:
            raise UserError(f"--follow is for files, and the input is {where}, which is followed anyway; leave it out.")
        return StandardInput(delimiters=columns.format.delimiters)
    if is_redis(where):  # the address in the options has the password
        address = RedisAddress.parse(options.input or where)
        return RedisSource(address, settings.group, "onward", wait=settings.follow)
    path = _path(options, settings)
    if settings.follow:
        return FollowedSource(path, columns.format.delimiters)
    return TableSource(path, columns.names) if is_table(path) else FileSource(path, columns.format.delimiters)


def check_header(options: StreamOptions, settings: StreamSettings) -> None:
    """Raises `UserError` if the input is a CSV file whose header lacks a column, or a JSON array."""
    path, columns = _path(options, settings), settings.learning.columns
    if settings.input != "-" and path.is_file() and not is_table(path):
        with FileSource(path, columns.format.delimiters) as source:
            for line in source.read(1, 0.0) or ():
                if isinstance(columns.format, JSONL):
                    columns.format.check_first(line.text)
                else:
                    columns.parser(line.text)


def _path(options: StreamOptions, settings: StreamSettings) -> Path:
    """The file of the events; its name in the settings lacks bytes that are not UTF-8."""
    return Path(options.input or settings.input).absolute()


def _new_group() -> str:
    """A new consumer group in Redis, for one run."""
    return f"onward-{secrets.token_hex(8)}"


def format_of(options: StreamOptions) -> CSV | JSONL:
    """The format of the input, as given or as its name tells. Raises `UserError` if options do not go together."""
    where = options.input or "-"
    path = Path(where)
    suffix = Path(path.stem).suffix if path.suffix in (".gz", ".bz2", ".xz", ".zst") else path.suffix
    lines = is_redis(where) or suffix in (".jsonl", ".json", ".ndjson") or is_table(path)
    name = options.format or ("jsonl" if lines else "csv")
    if name == "csv" and lines and suffix not in (".jsonl", ".json", ".ndjson"):
        raise UserError("--format csv is for text; the entries of a Redis stream and the rows of a table are not CSV.")
    if name == "csv":
        return CSV(options.delimiter, options.decimal)
    if options.delimiter is not None or options.decimal is not None:
        raise UserError("--delimiter and --decimal are for CSV, and the input is not CSV; leave them out.")
    return JSONL()


def _written_down(where: str) -> str:
    """An input as it is saved: without a password, and independent of the current folder."""
    if is_redis(where):
        return str(RedisAddress.parse(where))
    return where if where == "-" else in_utf_8(Path(where).absolute())


def is_redis(where: str) -> bool:
    """Whether an input is the address of a Redis stream."""
    return re.match(r"rediss?://", where) is not None


def _shown(value: object) -> str:
    return ",".join(value) if isinstance(value, tuple) else str(value)
