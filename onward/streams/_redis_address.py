"""The address of a Redis stream, with and without its password."""

import os
import re
from typing import NamedTuple
from urllib.parse import quote, unquote

from ..support.errors import UserError

PASSWORD = "REDISCLI_AUTH"  # redis-cli reads its password from this variable too


class RedisAddress(NamedTuple):
    """The address of a Redis stream: its server, `redis://[USER@]HOST[:PORT]/DB` or `rediss://`, its name, and the
    password.

    `str` leaves the password out, so that it can be written down.

        >>> address = RedisAddress.parse("redis://:secret@localhost/0/my%20stream")
        >>> address.stream, address.password, str(address)
        ('my stream', 'secret', 'redis://localhost/0/my%20stream')
    """

    server: str
    stream: str
    password: str | None

    @classmethod
    def parse(cls, text: str) -> "RedisAddress":
        """Parses `redis://[[USER]:PASSWORD@]HOST[:PORT]/DB/STREAM`. Raises `UserError` if the text has another form.

        User, password and stream may be percent-encoded. A stream whose name contains `#`, `?` or `%` must be. If the
        address has no password, the environment variable REDISCLI_AUTH gives it.
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

    def of_partition(self, number: int) -> "RedisAddress":
        """The address of a partition's stream, whose name is this stream's with a colon and the number.

        >>> str(RedisAddress.parse("redis://localhost/0/loads").of_partition(3))
        'redis://localhost/0/loads:3'
        """
        return self._replace(stream=f"{self.stream}:{number}")

    @property
    def whole(self) -> str:
        """The address with its password, for another process.

        >>> RedisAddress.parse("redis://:a%40b@localhost/0/loads").whole
        'redis://:a%40b@localhost/0/loads'
        """
        if self.password is None:
            return str(self)
        scheme, _, rest = str(self).partition("//")
        user, _, host = rest.rpartition("@")
        return f"{scheme}//{user}:{quote(self.password, safe='')}@{host}"

    def __str__(self) -> str:
        return f"{self.server}/{quote(self.stream, safe=':')}"
