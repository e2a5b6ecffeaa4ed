"""Addresses of Redis streams: each names what it says, or is refused; no password is ever shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from onward.cli import main
from onward.streams.redis_source import PASSWORD, RedisAddress
from onward.support.errors import UserError

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1)


@given(names, names | st.none(), st.sampled_from(["localhost", "127.0.0.1:7391", "[::1]:6379"]))
def test_what_is_written_down_is_read_back(stream, password, host):
    from urllib.parse import quote

    secret = "" if password is None else f"user:{quote(password, safe='')}@"
    address = RedisAddress.parse(f"rediss://{secret}{host}/3/{quote(stream, safe='')}")
    assert (address.stream, address.password) == (stream, password)
    assert address.server == f"rediss://{'user@' if secret else ''}{host}/3"
    again = RedisAddress.parse(str(address))
    assert again == address._replace(password=None)


@pytest.mark.parametrize(
    ("text", "stream", "password"),
    [
        ("redis://h:1/0/my%20stream", "my stream", None),
        ("redis://h:1/0/events%231", "events#1", None),
        ("redis://h:1/0/a/b:c@d", "a/b:c@d", None),
        ("redis://:s#cret@1@h:1/0/events", "events", "s#cret@1"),
        ("redis://:p%23/?@h/0/events", "events", "p#/?"),
    ],
)
def test_addresses(text, stream, password):
    address = RedisAddress.parse(text)
    assert (address.stream, address.password) == (stream, password)


@pytest.mark.parametrize(
    "text",
    [
        "redis://h:1/events",
        "redis://h:1/0/",
        "redis://h:1/0/events#1",
        "redis://h:1/0/events?c=1",
        "redis://:s3cret@h:1/x/events",
        "redis://:s3cret@h:1/0/events#1",
    ],
)
def test_an_address_that_is_none_is_refused_without_its_password(text, tmp_path, monkeypatch, capsys):
    with pytest.raises(UserError, match="must be redis://HOST:PORT/DB/STREAM"):
        RedisAddress.parse(text)
    monkeypatch.chdir(tmp_path)
    assert main(["stream", "--input", text, "--target", "load"]) == 2
    said = capsys.readouterr().err
    assert "%23" in said
    assert "s3cret" not in said
    assert not [*tmp_path.iterdir()]


def test_a_password_may_come_from_the_environment(monkeypatch):
    monkeypatch.setenv(PASSWORD, "from outside")
    assert RedisAddress.parse("redis://h/0/events").password == "from outside"
    assert RedisAddress.parse("redis://:own@h/0/events").password == "own"
