"""The address of a Redis stream: what is read, and what may be written down."""

import os
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from ..support.errors import UserError

PASSWORD = "REDISCLI_AUTH"  # the variable that redis-cli reads a password from


class RedisAddress(NamedTuple):
    """Where a stream is: `server`, `redis://[USER@]HOST[:PORT]/DB` or `rediss://`, the `stream`, and the password.

    `str` of it is without the password, and is what to write down.

        >>> address = RedisAddress.parse("redis://:secret@localhost/0/my%20stream")
        >>> address.stream, address.password, str(address)
        ('my stream', 'secret', 'redis://localhost/0/my%20stream')
    """

    server: str
    stream: str
    password: str | None

    @classmethod
    def parse(cls, text: str) -> "RedisAddress":
        """From `redis://[[USER]:PASSWORD@]HOST[:PORT]/DB/STREAM`. Raises `UserError` if that is not what it is.

        User, password and stream may be percent-encoded, and the stream must be where it has `#`, `?` or `%`. Without a
        password, that in the environment's REDISCLI_AUTH counts.
        """
        found = re.fullmatch(r"(rediss?://)(?:(?:([^:@/]*)(?::(.*))?)?@)?([^/@?#]+)/(\d+)/([^?#]+)", text)
        if found is None:
            shown = re.sub(r"//.*@", "//", text)
            raise UserError(
                f"{shown!r} must be redis://HOST:PORT/DB/STREAM, such as redis://localhost:6379/0/events, or rediss:// "
                f"over TLS; in a stream's name # is written %23, and ? is written %3F."
            )
        scheme, user, password, host, database, stream = found.groups()
        user = f"{quote(unquote(user), safe='')}@" if user else ""
        password = unquote(password) if password else os.environ.get(PASSWORD)
        return cls(f"{scheme}{user}{host}/{database}", unquote(stream), password)

    def __str__(self) -> str:
        return f"{self.server}/{quote(self.stream, safe=':')}"
