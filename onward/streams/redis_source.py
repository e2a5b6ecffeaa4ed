"""Events from a Redis stream, read through a consumer group; needs the extra `redis`."""

import logging
import time
from typing import Any

import msgspec

from ..support.errors import UserError
from ..support.extras import needed
from ._redis_address import PASSWORD
from ._redis_address import RedisAddress as RedisAddress
from .base import AbstractPartSource, Line, Position, RedisPosition

AT_ONCE = 1000  # entries acknowledged in one command
LONGEST_WAIT = 5.0  # seconds between two attempts to connect, and the time limit of a command
FIRST_WAIT = 0.1

log = logging.getLogger(__name__)


class RedisSource(AbstractPartSource):
    """The entries of a Redis stream, from the first one on. An entry stays pending in Redis until it is committed.

    If an entry has a single field named `event`, its text is that field. Any other entry becomes a JSON object of its
    fields, with numbers as strings. When reading begins, and after a lost connection, pending entries are read before
    new ones. After `seek` all entries after the position are read, including those that were committed since and still
    exist. No entry is given twice, even if the server has lost its record of deliveries, because entries whose id is
    not above the last one are skipped. An entry that was deleted while pending becomes an empty line.

    If the connection breaks, it is attempted again without end, with growing pauses. One warning to the logger
    `onward.streams.redis_source` says so. Raises `UserError` if the first connection fails, if the server wants another
    password, if the extra is not installed, or if no stream has this name.

    * `address`: of the server and the stream;
    * `group`: the consumer group, for this run alone; it is created if it does not exist;
    * `consumer`: this run's own name within the group;
    * `wait`: whether to wait for a stream that does not exist yet.
    """

    def __init__(self, address: RedisAddress, group: str, consumer: str, *, wait: bool = False):
        redis = needed("redis", "redis")
        self._lost = (redis.ConnectionError, redis.TimeoutError)
        self._wrong = redis.RedisError
        self._denied = redis.AuthenticationError
        self._url, self._waits = address.server, wait
        self._stream, self._group, self._consumer = address.stream, group, consumer
        self._client = connected(address)
        self._position = self._saved = (
            RedisPosition()
        )  # ids of the newest entry read, and of the newest in a checkpoint
        self._pending = True  # whether some entries may have been delivered but not seen
        self._wait = 0.0  # seconds until the next attempt to connect; 0 while connected
        try:
            self._make_group()
        except self._wrong as error:
            if self._is_missing(error) and wait:
                self._lose(error)
            elif isinstance(error, self._lost) and not isinstance(error, self._denied):
                raise _out_of_reach(self._url, error) from None
            else:
                raise self._refusal(error) from None

    def read(self, at_most: int, timeout: float) -> list[Line]:
        if self.until is not None:
            at_most = min(at_most, self.until - self._position.number)
        if at_most < 1:
            return []
        deadline = time.monotonic() + timeout
        while True:
            left = max(0.0, deadline - time.monotonic())
            entries = self._attempt(at_most, left)
            if entries:
                return [self._line(*entry) for entry in entries]
            if entries is None and left > 0:
                time.sleep(min(self._wait, left))
            if time.monotonic() >= deadline:
                return []

    def seek(self, position: Position) -> None:
        if not isinstance(position, RedisPosition):
            raise UserError(f"a run that has read {position} cannot go on from a Redis stream.")
        self._position = self._saved = position
        self._pending = False  # pending entries follow the position too, and come in their place
        if self._wait:
            return  # the group will begin there
        try:
            self._acknowledge(position)
            if self._about_group().get("last-delivered-id") != position.id.encode():  # otherwise its lag stays known
                self._client.xgroup_setid(self._stream, self._group, position.id, self._entries_before(position))
        except self._wrong as error:
            raise self._refusal(error) from None

    def commit(self, position: Position) -> None:
        assert isinstance(position, RedisPosition)
        self._saved = position
        try:
            self._acknowledge(position)
        except self._wrong as error:
            self._lose(error)  # entries left pending are passed over when they come again, and acknowledged later

    @property
    def lag(self) -> int | None:
        if self._wait:
            return None
        try:
            return self._about_group().get("lag")
        except self._wrong:
            return None

    @property
    def reached(self) -> bool:
        return self.until is not None and self._position.number >= self.until

    def close(self) -> None:
        self._client.close()

    def forget_groups(self, start: str) -> None:
        """Destroys the other consumer groups whose names begin with `start`, such as those of replaced workers."""
        try:
            names = [group["name"].decode(errors="replace") for group in self._client.xinfo_groups(self._stream)]
            for name in names:
                if name.startswith(start) and name != self._group:
                    self._client.xgroup_destroy(self._stream, name)
        except self._wrong as error:
            self._lose(error)

    def _attempt(self, at_most: int, left: float) -> list[tuple[str, dict | None]] | None:
        """The next entries; an empty list if there are none, `None` if the server did not answer."""
        try:
            if self._wait:
                self._make_group()
                log.warning("%s answers again, and has the stream %r.", self._url, self._stream)
                self._wait, self._pending = 0.0, True
            return self._entries(at_most, left)
        except self._wrong as error:
            self._lose(error)
            return None

    def _entries(self, at_most: int, left: float) -> list[tuple[str, dict | None]]:
        start = self._position.id if self._pending else ">"
        # In Redis 0 ms means for ever. Pending entries need no waiting.
        block = None if self._pending or left < 0.001 else int(1000 * min(left, LONGEST_WAIT))
        answer = self._client.xreadgroup(self._group, self._consumer, {self._stream: start}, at_most, block)
        entries = _entries_of(answer)
        if self._pending and not entries:
            self._pending = False
            return self._entries(at_most, left)
        return [(name, fields) for name, fields in entries if _order(name) > _order(self._position.id)]

    def _line(self, name: str, fields: dict | None) -> Line:
        self._position = RedisPosition(name, self._position.number + 1)
        return Line(self._position.number, _text(fields or {}), self._position)

    def _acknowledge(self, position: RedisPosition) -> None:
        while True:
            pending = self._client.xpending_range(
                self._stream, self._group, "-", position.id, AT_ONCE, consumername=self._consumer
            )
            if not pending:
                return
            self._client.xack(self._stream, self._group, *(entry["message_id"] for entry in pending))

    def _entries_before(self, position: RedisPosition) -> int | None:
        """How many entries the stream had up to this position; `None` if entries were removed or Redis is before 7."""
        about = self._client.xinfo_stream(self._stream)
        return position.number if about.get("entries-added") == about["length"] else None

    def _about_group(self) -> dict:
        groups = self._client.xinfo_groups(self._stream)
        return next((group for group in groups if group["name"] == self._group.encode()), {})

    def _make_group(self) -> None:
        try:
            self._client.xgroup_create(self._stream, self._group, self._saved.id)
        except self._wrong as error:
            if not str(error).startswith("BUSYGROUP"):  # the group exists already
                raise

    def _lose(self, error: Exception) -> None:
        """Waits until the server is back, or until an emptied server has the stream again; raises for any other
        error.
        """
        missing = self._is_missing(error)
        lost = isinstance(error, self._lost) and not isinstance(error, self._denied)
        if not (lost or missing or str(error).startswith("NOGROUP")):
            raise self._refusal(error) from None
        if not self._wait:
            if missing:
                log.warning("%s has no stream %r; waiting for it.", self._url, self._stream)
            else:
                log.warning("%s does not answer (%s); trying again until it does.", self._url, error)
        self._wait = min(max(FIRST_WAIT, 2 * self._wait), LONGEST_WAIT)

    def _is_missing(self, error: Exception) -> bool:
        return "requires the key to exist" in str(error) or "no such key" in str(error)

    def _refusal(self, error: Exception) -> UserError:
        if self._is_missing(error):
            return UserError(
                f"{self._url} has no stream {self._stream!r}; name one that is there, or wait for it with --follow."
            )
        if isinstance(error, self._denied) or str(error).startswith(("NOAUTH", "HELLO must be called")):
            return _wants_password(self._url, error)
        return UserError(f"{self._url} refuses to read the stream {self._stream!r} ({error}).")


def connected(address: RedisAddress) -> Any:
    """A client of the server. It connects with its first command.

    Raises `UserError` if the address has another form, or if the extra is not installed.
    """
    redis = needed("redis", "redis")
    # The client must not repeat a command by itself: newer entries would overtake those delivered to the first.
    try:
        return redis.Redis.from_url(
            address.server,
            password=address.password,
            retry=redis.retry.Retry(redis.backoff.NoBackoff(), 0),
            socket_timeout=2 * LONGEST_WAIT,
            socket_connect_timeout=LONGEST_WAIT,
        )
    except ValueError as error:
        raise UserError(f"{address.server!r} is not the address of a Redis server ({error}).") from None


def check_streams(address: RedisAddress, partitions: int, *, wait: bool) -> None:
    """Raises `UserError` if the server does not answer, or unless `wait`, if a partition has no stream."""
    redis, client = needed("redis", "redis"), connected(address)
    try:
        present = [bool(client.exists(address.of_partition(number).stream)) for number in range(partitions)]
    except redis.AuthenticationError as error:
        raise _wants_password(address.server, error) from None
    except (redis.ConnectionError, redis.TimeoutError) as error:
        raise _out_of_reach(address.server, error) from None
    except redis.RedisError as error:
        raise UserError(f"{address.server} refuses to tell its streams ({error}).") from None
    finally:
        client.close()
    if not (wait or all(present)):
        stream = address.of_partition(present.index(False)).stream
        raise UserError(
            f"{address.server} has no stream {stream!r}, the one of partition {present.index(False)} of {partitions}; "
            f"fill it with onward publish, or wait for it with --follow."
        )


def _out_of_reach(server: str, error: Exception) -> UserError:
    return UserError(f"{server} cannot be reached ({error}); start Redis, or name another server.")


def _wants_password(server: str, error: Exception) -> UserError:
    return UserError(
        f"{server} wants a password, or another one ({error}); write redis://:PASSWORD@HOST:PORT/DB/STREAM, "
        f"or put it into the environment's {PASSWORD}."
    )


def _entries_of(answer) -> list[tuple[str, dict | None]]:
    """The entries of the one requested stream, from a reply in either version of the protocol."""
    if not answer:
        return []
    entries = next(iter(answer.values()))[0] if isinstance(answer, dict) else answer[0][1]
    return [(name.decode(), fields) for name, fields in entries]


def _text(fields: dict[bytes, bytes]) -> bytes:
    if list(fields) == [b"event"]:
        return fields[b"event"]
    if not fields:
        return b""
    return msgspec.json.encode({_printable(name): _printable(value) for name, value in fields.items()})


def _printable(value: bytes) -> str:
    return value.decode(errors="backslashreplace")


def _order(name: str) -> tuple[int, int]:
    """The sort key of an entry's id: milliseconds, and a number within them."""
    milliseconds, number = name.split("-")
    return int(milliseconds), int(number)
