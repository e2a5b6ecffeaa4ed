"""Puts events into the Redis streams of a partitioned run; needs the extra `redis`."""

import secrets
from collections.abc import Iterable, Mapping

import msgspec

from ..support.arguments import whole
from ..support.errors import UserError
from ..support.extras import needed
from ._redis_address import RedisAddress
from .partitions import partition_of
from .redis_source import connected


class Producer:
    """Adds each event to the stream of its key's partition. Use it as a context manager.

    The stream of partition p of `redis://HOST/0/NAME` is `NAME:p`. An event is a mapping of columns to values, or a
    text that holds a JSON object. The entries of a stream are in the order of the calls. Streams that do not exist are
    made.

    * `address`: the server, and the name before the colon;
    * `partitions`: their number P, the `--partitions` of the run.

    Raises `ValueError` if `partitions` is not a whole number of at least 1, and `UserError` if the extra is not
    installed.

        producer = Producer(RedisAddress.parse("redis://localhost/0/loads"), 8)
        producer.add([("machine 17", {"machine": "machine 17", "load": 0.61})])
    """

    def __init__(self, address: RedisAddress, partitions: int):
        self._partitions = whole("partitions", partitions)
        self._errors = needed("redis", "redis").RedisError
        self._url, self._client = address.server, connected(address)
        self._streams = [address.of_partition(number).stream for number in range(self._partitions)]
        self._made = False  # whether all streams are known to exist

    def __enter__(self) -> "Producer":
        return self

    def __exit__(self, *exception) -> None:
        self._client.close()

    def add(self, events: Iterable[tuple[str | None, Mapping[str, object] | bytes | str]]) -> None:
        """Adds pairs of a key and an event in one transaction: all of them or, if the server fails before, none.

        An event whose key is `None` goes to partition 0, where it is reported as malformed. Raises `UserError` if the
        server does not answer or refuses; the events may then be there or not.
        """
        self._make_streams()
        pipeline = self._client.pipeline(transaction=True)
        for key, event in events:
            stream = self._streams[0 if key is None else partition_of(key, self._partitions)]
            pipeline.xadd(stream, _fields(event))
        try:
            pipeline.execute()
        except self._errors as error:
            raise self._refused(error) from None

    def _make_streams(self) -> None:
        """Makes the streams that do not exist yet, because a partition may have no key for long."""
        name = f"made-{secrets.token_hex(8)}"
        for stream in () if self._made else self._streams:
            try:
                self._client.xgroup_create(stream, name, mkstream=True)
                self._client.xgroup_destroy(stream, name)
            except self._errors as error:
                raise self._refused(error) from None
        self._made = True

    def _refused(self, error: Exception) -> UserError:
        return UserError(f"{self._url} did not take the events ({error}).")


def _fields(event: Mapping[str, object] | bytes | str) -> dict:
    """The fields of an entry. A field `event` alone is read as a text, so a mapping of that column is sent as one."""
    if not isinstance(event, Mapping):
        return {"event": event}
    value = event["event"] if set(event) == {"event"} else None
    if isinstance(value, bytes):
        value = value.decode(errors="backslashreplace")
    if type(value) in (str, int, float):  # Redis refuses others, as in any field
        return {"event": msgspec.json.encode({"event": str(value)})}
    return dict(event)
