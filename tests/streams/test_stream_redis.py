"""A Redis stream, on a server of its own: every entry once, through a crash of the reader and of the server."""

import json
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest

from onward.streams.base import RedisPosition
from onward.streams.events import JSONL, Columns
from onward.streams.producer import Producer
from onward.streams.redis_source import RedisAddress, RedisSource
from onward.streams.sources import FilePosition
from onward.support.errors import UserError

redis = pytest.importorskip("redis")
if shutil.which("redis-server") is None:
    pytest.skip("there is no redis-server", allow_module_level=True)


class Server:
    """A Redis server that keeps everything on the disk."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.client = redis.Redis.from_url(self.url)
        self.start()

    def start(self):
        options = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self._folder), "--save", ""]
        command = ["redis-server", *options, "--appendonly", "yes", "--appendfsync", "always"]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                self.client.ping()
                return
            except redis.ConnectionError:
                time.sleep(0.05)
        raise AssertionError("the server does not start")

    def stop(self, number=signal.SIGKILL):
        self._process.send_signal(number)
        self._process.wait()

    def add(self, stream, *events):
        for event in events:
            self.client.xadd(stream, {"event": event})

    def make(self, stream):
        """An empty stream."""
        self.add(stream, "0")
        self.client.xtrim(stream, maxlen=0)

    def reader(self, stream, **options):
        return RedisSource(RedisAddress(self.url, stream, None), "learners", "one", **options)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture
def stream(request):
    return request.node.name


def texts(lines):
    return [line.text for line in lines]


def until_something(source, seconds=10.0):
    end = time.monotonic() + seconds
    while not (lines := source.read(100, 0.2)) and time.monotonic() < end:
        pass
    return lines


def pending(server, stream):
    return server.client.xpending(stream, "learners")["pending"]


def test_a_stream_that_does_not_exist_is_said_and_waited_for_if_asked(server, stream, caplog):
    with pytest.raises(
        UserError, match=f"has no stream {stream!r}; name one that is there, or wait for it with --follow"
    ):
        server.reader(stream)
    with server.reader(stream, wait=True) as source:
        assert source.read(10, 0.1) == []
        assert not server.client.exists(stream)
        assert [record.getMessage() for record in caplog.records] == [
            f"{server.url} has no stream {stream!r}; waiting for it."
        ]
        server.add(stream, *"ab")
        assert texts(until_something(source)) == [b"a", b"b"]


def test_a_password_is_asked_for_and_never_shown(server, stream):
    server.add(stream, "a")
    server.client.config_set("requirepass", "s#cret@1")
    try:
        address = RedisAddress.parse(f"redis://:s#cret@1@127.0.0.1:{server.port}/0/{stream}")
        with RedisSource(address, "learners", "one") as source:
            assert texts(source.read(10, 0.1)) == [b"a"]
        for wrong in (None, "other"):
            with pytest.raises(UserError, match="wants a password, or another one") as said:
                RedisSource(address._replace(password=wrong), "learners", "one")
            assert "s#cret" not in str(said.value)
    finally:
        server.client = redis.Redis.from_url(server.url, password="s#cret@1")
        server.client.config_set("requirepass", "")


def test_entries_are_read_in_order_and_acknowledged(server, stream):
    server.make(stream)
    with server.reader(stream) as source:
        assert source.read(10, 0.0) == []
        server.add(stream, *"abcde")
        assert source.lag == 5
        lines = source.read(3, 0.1)
        assert [(line.number, line.text) for line in lines] == [(1, b"a"), (2, b"b"), (3, b"c")]
        assert (source.lag, pending(server, stream)) == (2, 3)
        source.commit(lines[1].position)
        assert pending(server, stream) == 1
        assert texts(source.read(3, 0.1)) == [b"d", b"e"]
    server.add(stream, "f")
    with server.reader(stream) as source:  # stopped cleanly: where the group is as well
        source.seek(RedisPosition(server.client.xrange(stream)[4][0].decode(), 5))
        assert source.lag == 1


def test_a_read_waits_for_the_first_entry_only_so_long(server, stream):
    server.make(stream)
    with server.reader(stream) as source:
        start = time.monotonic()
        assert source.read(10, 0.3) == []
        assert 0.25 < time.monotonic() - start < 3


def test_fields_are_the_columns_of_a_json_object(server, stream):
    server.client.xadd(stream, {"load": "1.5", "price": 2, "who": b"caf\xc3\xa9 \xff"})
    with server.reader(stream) as source:
        (line,) = source.read(10, 0.1)
    event = Columns(JSONL(), inputs=("load",), target="price", key="who").parser(None)(line.text)
    assert (event.x.tolist(), event.y, event.key) == ([1.5], 2.0, "café \\xff")


@pytest.mark.parametrize(
    ("event", "read"),
    [
        ({"event": "b"}, {"event": "b"}),
        ({"event": 3}, {"event": "3"}),
        ({"event": b"d\xff"}, {"event": "d\\xff"}),
        ({"event": "1", "load": "2"}, {"event": "1", "load": "2"}),
        ('{"event": "c"}', {"event": "c"}),
    ],
)
def test_what_a_producer_adds_is_read_again(server, event, read):
    stream = f"added-{read}".replace(" ", "")
    with Producer(RedisAddress(server.url, stream, None), 1) as producer:
        producer.add([("key", event)])
    with server.reader(f"{stream}:0") as source:
        (line,) = source.read(10, 0.1)
    assert json.loads(line.text) == read


def test_a_producer_refuses_what_redis_does(server, stream):
    with (
        Producer(RedisAddress(server.url, stream, None), 1) as producer,
        pytest.raises(UserError, match="did not take the events"),
    ):
        producer.add([("key", {"event": None})])


def test_a_crash_between_reading_and_committing_gives_the_same_again(server, stream):
    server.add(stream, *"abcdef")
    crashed = server.reader(stream)
    lines = crashed.read(5, 0.1)
    crashed.close()  # b is in the checkpoint, and was not acknowledged
    with server.reader(stream) as source:
        source.seek(lines[1].position)
        assert source.read(2, 0.1) == lines[2:4]
        rest = source.read(2, 0.1)
        assert rest[:1] == lines[4:]
        assert texts(rest) == [b"e", b"f"]
        source.commit(lines[3].position)
        assert pending(server, stream) == 2
    with server.reader(stream) as source:  # no checkpoint at all: what nobody has acknowledged
        assert texts(source.read(10, 0.1)) == [b"e", b"f"]


def test_an_older_checkpoint_gives_what_the_newer_had_committed(server, stream):
    server.add(stream, *"abcdef")
    with server.reader(stream) as source:
        lines = source.read(5, 0.1)
        source.commit(lines[2].position)  # d and e stay pending, f was never delivered
    with server.reader(stream) as source:
        source.seek(lines[0].position)
        assert source.read(4, 0.1) == lines[1:]
        assert texts(source.read(4, 0.1)) == [b"f"]
        source.commit(lines[4].position)
        assert pending(server, stream) == 1


def test_a_group_that_was_lost_begins_at_what_was_saved(server, stream):
    server.add(stream, *"abc")
    with server.reader(stream) as source:
        source.commit(source.read(1, 0.1)[0].position)
        (line,) = source.read(1, 0.1)
        server.client.xgroup_destroy(stream, "learners")
        source.commit(line.position)
        assert texts(until_something(source)) == [b"c"]
        server.client.xgroup_destroy(stream, "learners")
        server.add(stream, "d")
        assert texts(until_something(source)) == [b"d"]
    with server.reader(stream) as source:  # c and d were read, and never saved
        assert texts(source.read(10, 0.1)) == [b"c", b"d"]


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_restart_of_the_server_is_survived(server, stream, number, caplog):
    server.add(stream, *"abc")
    with server.reader(stream) as source:
        lines = source.read(2, 0.1)
        server.stop(number)
        assert source.read(10, 0.3) == []
        source.commit(lines[-1].position)
        assert source.lag is None
        server.start()
        server.add(stream, "d")
        rest = until_something(source)
        rest += source.read(10, 0.1)
        assert [(line.number, line.text) for line in rest] == [(3, b"c"), (4, b"d")]
        source.commit(rest[-1].position)
        assert pending(server, stream) == 0
    said = [record.getMessage() for record in caplog.records]
    assert ["does not answer" in text for text in said] == [True, False]
    assert "answers again" in said[1]


def test_what_was_delivered_and_lost_on_the_way_is_read_again(server, stream, monkeypatch):
    server.add(stream, *"abc")
    with server.reader(stream) as source:
        first = source.read(1, 0.1)
        deliver = redis.Redis.xreadgroup

        def lose(client, *arguments):
            monkeypatch.undo()
            assert deliver(client, *arguments)
            raise redis.ConnectionError("the answer is lost")

        monkeypatch.setattr(redis.Redis, "xreadgroup", lose)
        assert source.read(1, 0.0) == []
        rest = until_something(source) + source.read(10, 0.1)
        assert texts(first + rest) == [b"a", b"b", b"c"]


def test_a_server_that_was_emptied_gives_nothing_twice(server, stream):
    server.add(stream, *"ab")
    with server.reader(stream) as source:
        lines = source.read(2, 0.1)
        entries = server.client.xrange(stream)
        server.client.delete(stream)
        assert source.read(10, 0.1) == []
        for name, fields in entries:  # an old copy of the stream is put back, without its group
            server.client.xadd(stream, fields, id=name)
        server.add(stream, "c")
        assert texts(until_something(source)) == [b"c"]
    with server.reader(stream) as source:
        server.client.xgroup_setid(stream, "learners", "0")
        source.seek(lines[1].position)
        assert [(line.number, line.text) for line in until_something(source)] == [(3, b"c")]
        assert source.read(10, 0.1) == []


def test_an_entry_deleted_while_it_was_pending_is_an_empty_line(server, stream):
    server.add(stream, *"ab")
    with server.reader(stream) as source:
        lines = source.read(2, 0.1)
    server.client.xdel(stream, lines[0].position.id)
    with server.reader(stream) as source:
        assert texts(source.read(2, 0.1)) == [b"", b"b"]


def test_what_cannot_be_read(server, stream):
    server.client.set(stream, "a string")
    with pytest.raises(UserError, match="refuses to read the stream"):
        server.reader(stream)
    with pytest.raises(UserError, match="not the address of a Redis server"):
        RedisSource(RedisAddress("redis://localhost:port/0", stream, None), "learners", "one")
    with pytest.raises(UserError, match="cannot be reached") as unreachable:
        RedisSource(RedisAddress.parse("redis://:secret@127.0.0.1:1/0/events"), "learners", "one")
    assert "secret" not in str(unreachable.value)
    server.add(stream + "2", "a")
    with server.reader(stream + "2") as source, pytest.raises(UserError, match="cannot go on from a Redis stream"):
        source.seek(FilePosition())


def test_without_the_extra_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "redis", None)
    with pytest.raises(UserError, match=r"pip install 'onward\[redis\]'"):
        RedisSource(RedisAddress("redis://127.0.0.1:1/0", "stream", None), "learners", "one")
