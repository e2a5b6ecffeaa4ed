"""What a worker of `onward stream --workers` is told to do."""

import msgspec

from .stream_settings import StreamSettings


class Job(msgspec.Struct, frozen=True):
    """What a worker does.

    * `run`: the folder of the run; `epochs`: the epoch of each of the worker's partitions;
    * `input`: the input with its password, which `settings` lacks. Paths are bytes, because they may not be UTF-8.
    """

    run: bytes
    epochs: dict[int, int]
    settings: StreamSettings
    input: bytes
    checkpoint_every: float
    dead_letter_limit: int
