"""Files of data sets. They are found or fetched, and used only if they match the canonical content exactly."""

import hashlib
import io
import lzma
import os
import sys
import tarfile
import urllib.request
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from onward.support.cache_folder import cache_folder
from onward.support.errors import UserError

TIMEOUT = 30.0  # seconds to wait for an answer from a source


@dataclass(frozen=True)
class DataSet:
    """A data set of some files.

    * `name`: what to call it; `folder`: the folder of its files, below the one that `ONWARD_DATA` names;
    * `files`: the SHA-256 of each file's content, by name;
    * `source`: the address of the archive, `.tar.gz` or `.zip`, that holds the files, or the address to which their
      names are appended; `None` if nobody offers them in this form.

    A file is first looked for in `ONWARD_DATA`, also compressed as `.xz`. Then it is looked for in the user's cache
    folder, among what was fetched before. Otherwise it is fetched.
    """

    name: str
    folder: str
    files: Mapping[str, str]
    source: str | None

    def read(self, file: str) -> bytes:
        """The content of one of the files.

        Raises `UserError` if the file is not the canonical one. It is then not used: a fetched file is set aside, and a
        file in `ONWARD_DATA` stays where it is. Raises it too if there is no file, and it cannot be fetched or kept.
        """
        named = os.environ.get("ONWARD_DATA")
        theirs, ours = Path(named) / self.folder / file if named else None, self._kept(file)
        for path in [theirs.with_name(file + ".xz"), theirs] if theirs else []:
            if self._is_there(path):
                return self._checked(path, file, "put the right one there" if self.source is None else "fetch it anew")
        if not ours.exists():
            self._fetch(file, theirs)
        return self._checked(ours, file, "it is fetched anew the next time")

    def _checked(self, path: Path, file: str, remedy: str) -> bytes:
        try:
            content = path.read_bytes()
            content = lzma.decompress(content) if path.name != file else content
        except (OSError, lzma.LZMAError) as error:
            reason = getattr(error, "strerror", None) or "it is damaged"
            raise UserError(
                f"{path} cannot be read ({reason}); put {self.name}'s file there, or let ONWARD_DATA name another "
                "folder."
            ) from None
        found, right = hashlib.sha256(content).hexdigest(), self.files[file]
        if found != right:
            if path == self._kept(file):
                aside = path.with_name(file + ".wrong")
                try:
                    os.replace(path, aside)
                    remedy = f"it is kept aside as {aside.name}, and {remedy}"
                except OSError as error:
                    remedy = f"it cannot be put aside ({error.strerror}): remove it"
            raise UserError(
                f"{path} is not {self.name}'s file, its SHA-256 beginning with {found[:8]} where {right[:8]} is right; "
                f"{remedy}."
            )
        return content

    def _is_there(self, path: Path) -> bool:
        try:
            return path.exists()
        except OSError as error:  # a folder that may not be searched
            raise UserError(f"{path} cannot be read ({error.strerror}); let ONWARD_DATA name another folder.") from None

    def _kept(self, file: str) -> Path:
        return cache_folder() / "data" / self.folder / file

    def _fetch(self, file: str, theirs: Path | None) -> None:
        """Fetches the file, with what else its archive holds, into the cache folder. It is checked only when it is
        read.
        """
        named = f"let ONWARD_DATA name the folder that holds {self.folder}/{file}"
        place = f"put {file} at {theirs}" if theirs else named
        if self.source is None:
            raise UserError(f"{self.name}'s {file} is not there and cannot be fetched; {place}.")
        archive = self.source.endswith((".tar.gz", ".zip"))
        address = self.source if archive else self.source + file
        print(f"fetching {address}", file=sys.stderr)
        try:
            with urllib.request.urlopen(address, timeout=TIMEOUT) as answer:
                content = answer.read()
            contents = _members(content, self.files) if archive else {file: content}
        except (OSError, EOFError, zlib.error, HTTPException, tarfile.TarError, zipfile.BadZipFile) as error:
            reason = str(getattr(error, "reason", None) or getattr(error, "strerror", None) or error)
            reason = " ".join(reason.split())  # tarfile's message has many lines
            raise UserError(
                f"{self.name}'s {file} is not there and cannot be fetched from {address} ({reason}); {place}."
            ) from None
        for name, data in contents.items():
            path = self._kept(name)
            part = path.with_name(f".{name}.{os.getpid()}.part")
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
                part.write_bytes(data)
                os.replace(part, path)
            except OSError as error:
                raise UserError(
                    f"{self.name}'s {name} cannot be kept at {path} ({error.strerror}); make its folder writable, or "
                    f"{place}."
                ) from None


def _members(archive: bytes, wanted: Mapping[str, str]) -> dict[str, bytes]:
    """The wanted files of an archive, whatever folder they are in."""
    found = {}
    if zipfile.is_zipfile(io.BytesIO(archive)):
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            found = {Path(name).name: opened.read(name) for name in opened.namelist() if Path(name).name in wanted}
    else:
        with tarfile.open(fileobj=io.BytesIO(archive)) as opened:
            for member in opened:
                name = Path(member.name).name
                if name in wanted and (file := opened.extractfile(member)) is not None:
                    found[name] = file.read()
    if missing := set(wanted) - set(found):
        raise tarfile.TarError(f"its archive lacks {min(missing)}")
    return found
