"""Safe access to a folder: one process at a time holds it, no write leaves it, no read waits for a pipe or a device."""

import contextlib
import errno
import fcntl
import os
import secrets
import socket
import stat
import time
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import BinaryIO

from .errors import UserError

KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}
INNER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
TEMPORARY = ".*.tmp"  # pattern of the names of new files that are not finished yet


class Folder:
    """A folder whose files are written only through this class.

    * `path`: the folder. It may itself be a symbolic link.

    The methods take paths of files in the folder or its subfolders. They open files relative to the folder's
    descriptor, and follow no links. They raise `UserError` if there is a symbolic link, a pipe, a device or a folder in
    place of a file. Other failures are `OSError` with the whole path.

        >>> import tempfile
        >>> folder = Folder(Path(tempfile.mkdtemp()))
        >>> folder.write(folder.path / "parts" / "first.txt", b"1")
        >>> (folder.path / "parts" / "first.txt").read_bytes()
        b'1'
        >>> (folder.path / "second.txt").symlink_to("/tmp/elsewhere")
        >>> folder.write(folder.path / "second.txt", b"2")  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        onward.support.errors.UserError: /.../second.txt is a symbolic link, where a file belongs; remove it.
    """

    def __init__(self, path: Path):
        self.path = path
        self._descriptor: int | None = None  # while it is held

    def write(self, path: Path, data: bytes) -> None:
        """Writes a whole file, and creates the folders it needs. After a crash either the old file or the new one is
        there.

        Other names of the old file, which are hard links, keep the old content.
        """
        with naming(path), self._inner(path.parent, make=True) as inner:
            _check(path, inner)
            temporary = f".{secrets.token_hex(8)}.tmp"
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666, dir_fd=inner)
            try:
                with open(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(descriptor)
                os.replace(temporary, path.name, src_dir_fd=inner, dst_dir_fd=inner)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary, dir_fd=inner)
                raise
            os.fsync(inner)  # otherwise a power failure may undo the renaming

    def append(self, path: Path) -> BinaryIO:
        """Opens a file to add to its end. Also raises `UserError` if the file has other names, which are hard links."""
        with naming(path), self._inner(path.parent, make=True) as inner:
            _check(path, inner, shared=False)
            # If the name is taken at this moment: O_NOFOLLOW refuses a link, and O_NONBLOCK does not wait for a pipe.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK
            file = open(os.open(path.name, flags, 0o666, dir_fd=inner), "ab")
            try:
                _check_status(path, os.fstat(file.fileno()), shared=False)
            except UserError:
                file.close()
                raise
            return file

    def remove(self, path: Path) -> None:
        """Removes a file, or a link or pipe in its place. Does nothing if there is none."""
        with contextlib.suppress(FileNotFoundError), naming(path), self._inner(path.parent) as inner:
            os.unlink(path.name, dir_fd=inner)

    def check_own(self, path: Path) -> None:
        """Raises `UserError` unless `path` does not exist, or is a file without hard links and not a link itself."""
        with contextlib.suppress(FileNotFoundError), naming(path), self._inner(path.parent) as inner:
            _check(path, inner, shared=False)

    def check_ordinary(self) -> None:
        """Raises `UserError` if there is a link, a pipe, a socket or a device in the folder or its inner folders."""
        _check_ordinary(self.path)

    def remove_unfinished(self, path: Path) -> None:
        """Removes the unfinished files of a killed process from the folder `path`."""
        for left in path.glob(TEMPORARY):
            self.remove(left)

    def hold(self, *, shared: bool = False, wait: float = 0.0) -> None:
        """Locks the folder for this process until `close`, after waiting at most `wait` seconds. Raises `UserError` if
        another process holds it. Several processes may hold it as `shared`.

        The kernel releases the folder if the process ends in any way, so a kill leaves nothing to clean up.
        """
        end = time.monotonic() + wait
        while self._descriptor is None:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
            try:
                while not _locked(descriptor, shared):
                    if time.monotonic() >= end:
                        raise UserError(f"{self.path} is in use by another process; wait for it, or stop it first.")
                    time.sleep(0.05)
                # Otherwise the folder was removed and created again in the meantime.
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    self._descriptor = descriptor
            finally:
                if self._descriptor is None:
                    os.close(descriptor)

    def share(self) -> None:
        """Lets other processes hold the folder too, if they share it."""
        if self._descriptor is not None:
            _locked(self._descriptor, shared=True)

    @contextlib.contextmanager
    def claim(self, path: Path) -> Iterator[str]:
        """A context in which a piece of work belongs to this process. Its value is "", or who has claimed it already.

        The claim is a lock on a file, which says who holds it and goes when the work is done. If a process is killed,
        the kernel releases its claims.
        """
        while True:
            file = self.append(path)
            try:
                mine = _locked(file.fileno(), shared=False)
                # Otherwise the work was done, and its claim removed, in the meantime.
                current = path.exists() and os.path.samestat(os.fstat(file.fileno()), os.stat(path))
            except BaseException:
                file.close()
                raise
            if not mine or current:
                break
            file.close()
        with file:
            if not mine:
                yield path.read_text(errors="replace").strip() or "another process"
                return
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}\n".encode())
            file.flush()
            try:
                yield ""
            finally:
                self.remove(path)

    def close(self) -> None:
        """Releases the folder if it is held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @contextlib.contextmanager
    def _inner(self, path: Path, *, make: bool = False) -> Iterator[int]:
        """A descriptor of this folder or of an inner one, found without following a link."""
        parts = path.relative_to(self.path).parts
        descriptor = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY) if self._descriptor is None else None
        own = self._descriptor if descriptor is None else descriptor
        assert own is not None
        try:
            for number, part in enumerate(parts, 1):
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(part, dir_fd=own)
                try:
                    found = os.open(part, INNER, dir_fd=own)
                except OSError as error:
                    if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                        raise
                    what = _kind(os.stat(part, dir_fd=own, follow_symlinks=False))
                    where = self.path.joinpath(*parts[:number])
                    raise UserError(f"{where} is {what}, where a folder belongs; remove it.") from None
                if descriptor is not None:
                    os.close(descriptor)
                own = descriptor = found
            yield own
        finally:
            if descriptor is not None:
                os.close(descriptor)


def is_unused(path: Path) -> bool:
    """Whether `path` is a folder that is empty but for unfinished files of a killed process."""
    return path.is_dir() and all(fnmatch(name, TEMPORARY) for name in os.listdir(path))


def opened(path: Path) -> BinaryIO:
    """Opens a file to read, also through a link.

    Raises `UserError` if `path` is not an ordinary file, because reading a pipe might never end. Raises `OSError` if
    the file is not there or cannot be read.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is {_kind(status)}, where a file is needed.")
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # it might have become a pipe in this moment
    return open(descriptor, "rb")


def read(path: Path) -> bytes:
    """The bytes of a file. Raises what `opened` raises."""
    with opened(path) as file:
        return file.read()


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """A context in which each `OSError` names this path."""
    try:
        yield
    except OSError as error:
        raise named(error, path) from None


def named(error: OSError, path: Path) -> OSError:
    """The same error, which names this path."""
    if error.errno is None or error.filename == str(path):
        return error
    return OSError(error.errno, error.strerror, str(path))


def _locked(descriptor: int, shared: bool) -> bool:
    """Whether this process now has the lock; false if another one holds it."""
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        pass  # the file system has no locks: the user must take care
    return True


def _check(path: Path, inner: int, *, shared: bool = True) -> None:
    """Raises `UserError` if the name is taken by anything but a file. The file may have other names if `shared`."""
    with contextlib.suppress(FileNotFoundError):
        _check_status(path, os.stat(path.name, dir_fd=inner, follow_symlinks=False), shared=shared)


def _check_status(path: Path, status: os.stat_result, *, shared: bool) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise UserError(f"{path} is {_kind(status)}, where a file belongs; remove it.")
    if status.st_nlink > 1 and not shared:
        raise UserError(
            f"{path} has another name elsewhere (a hard link), so that writing to it would change that file too; put a "
            "copy in its place."
        )


def _check_ordinary(folder: Path) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                _check_ordinary(Path(entry.path))
            elif not entry.is_file(follow_symlinks=False):
                what = _kind(entry.stat(follow_symlinks=False))
                raise UserError(f"{entry.path} is {what}, where only files and folders belong; remove it.")


def _kind(status: os.stat_result) -> str:
    return KINDS.get(stat.S_IFMT(status.st_mode), "a file")
