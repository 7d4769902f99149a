"""Whole files: written aside and renamed, so that a file that exists is complete."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import socket
import stat
import tempfile
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from vss.core.errors import UserError

StrPath: TypeAlias = str | os.PathLike
"""What names a file or a folder."""

JsonObject: TypeAlias = Mapping[str, Any]
"""A JSON object whose members only those know who wrote it."""

# What a file system answers that has no room: the disk's, the user's quota, the largest file it takes.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# What zipfile raises over a file that is cut, damaged or encrypted, and what NumPy besides over an .npz.
BROKEN_ZIP = (OSError, EOFError, ValueError, RuntimeError, zipfile.BadZipFile, zlib.error)
BROKEN_NPZ = (*BROKEN_ZIP, KeyError, TypeError, AttributeError)
# What torch's archive writer and NumPy raise for a write that failed, whatever the reason.
_WRITE_FAILED = re.compile(r"iostream error|unexpected pos|PytorchStreamWriter|^\d+ requested and \d+ written$")
# A temporary file of another boot or container belongs to a writer that cannot be asked; a live one writes more often.
_ABANDONED_SECONDS = 24 * 3600
# In a string of Python they stand for the bytes of a file's name that is not UTF-8; a text file holds them as escapes.
_SURROGATES = re.compile("[\ud800-\udfff]")
_LONGEST_SUFFIX = 20
_SEAL, _SEAL_START = "checksum", "sha256-16:"


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path next to `path`; on success it is renamed to `path`, on failure it is removed.

    The temporary name keeps the suffix, because several writers choose the format by it, and is short whatever the
    length of `path`.

    Raises:
        UserError: the folder cannot be made or takes no file, or the disk is full.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_what_killed_writers_left(path)
        suffix = path.suffix if len(path.suffix) <= _LONGEST_SUFFIX else ""
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=_own_prefix(path), suffix=suffix)
    except OSError as error:  # it names the temporary file
        raise UserError(f"{path}: cannot be written there ({error.strerror})") from None
    os.close(handle)
    aside = Path(name)
    try:
        yield aside
        with open(aside, "rb+") as file:
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(aside, 0o666 & ~umask)  # mkstemp makes files private; outputs follow the user's umask
        os.replace(aside, path)
    except Exception as error:
        if (full := no_space(error)) is None:
            raise
        raise disk_full(path, full) from None
    finally:
        aside.unlink(missing_ok=True)


def no_space(error: BaseException) -> OSError | None:
    """Returns the system's error of a write that found no space, where an error is that or was led to by it.

    Libraries that write files themselves raise types of their own, of which only the words are the system's; torch and
    NumPy do not even keep these.
    """
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, UserError):
        if isinstance(seen, OSError) and seen.errno in NO_SPACE:
            return seen
        for number in NO_SPACE:
            if os.strerror(number) in str(seen):
                return OSError(number, os.strerror(number))
        if isinstance(seen, (RuntimeError, OSError)) and _WRITE_FAILED.search(str(seen)):
            return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        seen = seen.__cause__ or seen.__context__
    return None


def disk_full(path: str | os.PathLike, error: OSError) -> UserError:
    """Returns the refusal of a file for which there is no room."""
    return UserError(
        f"{path}: {error.strerror or 'no space left on device'}; free some space and rerun the same command"
    )


def _own_prefix(path: Path) -> str:
    """Returns how this process's temporary files for `path` begin: path, machine, process, time of its start."""
    pid = os.getpid()
    return f"{_prefix(path)}{_machine()}-{pid}-{_started(pid)}-"


def _prefix(path: Path) -> str:
    return f".writing-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:12]}-"


def _machine() -> str:
    """Returns 12 hexadecimal digits of this host, boot and namespace of process ids: within them a pid means something.

    Two machines or containers may have one host name.
    """
    boot = Path("/proc/sys/kernel/random/boot_id")
    namespace = Path("/proc/self/ns/pid")
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts += [boot.read_text(), os.readlink(namespace)]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def _started(pid: int) -> str | None:
    """Returns when a process of this machine began, in clock ticks since boot; None for one that is gone."""
    try:
        stat = Path("/proc", str(pid), "stat").read_text()
    except OSError:
        return None
    return stat.rpartition(")")[2].split()[19]  # field 22 of proc(5); the name before it may hold anything


def _remove_what_killed_writers_left(path: Path) -> None:
    """Removes temporary files for `path` whose writer is gone, or of another machine and not touched for a day."""
    prefix = _prefix(path)
    with os.scandir(path.parent) as entries:
        left = [entry for entry in entries if entry.name.startswith(prefix)]
    for entry in left:
        machine, pid, started, *_ = [*entry.name.removeprefix(prefix).split("-"), "", "", ""]
        with contextlib.suppress(OSError):
            if machine == _machine():
                gone = pid.isdecimal() and _started(int(pid)) != started
            else:
                gone = time.time() - entry.stat(follow_symlinks=False).st_mtime > _ABANDONED_SECONDS
            if gone:
                os.unlink(entry.path)


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file whole or not at all."""
    with atomic_path(path) as aside:
        aside.write_text(text, encoding="utf-8")


def write_json(path: str | os.PathLike, value: JsonObject) -> None:
    """Writes a JSON object with sorted keys, two-space indent, no NaN, and its checksum (`sealed`)."""
    text = json.dumps(sealed(value), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_text(path, _SURROGATES.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")


def regular_file(path: str | os.PathLike) -> Path:
    """Returns the path of a file that has an end: a pipe would be waited for, and a device read for ever.

    Raises:
        OSError: it is no regular file or link to one, or is not there.
    """
    mode = os.stat(path).st_mode
    if not stat.S_ISREG(mode):
        number = errno.EISDIR if stat.S_ISDIR(mode) else errno.EINVAL
        raise OSError(number, "is a folder" if stat.S_ISDIR(mode) else "is a pipe or a device, not a file", str(path))
    return Path(path)


def is_folder(entry: os.DirEntry) -> bool:
    """Returns whether an entry of a folder is a folder or a link to one; a link that leads in a circle is none."""
    try:
        return entry.is_dir()
    except OSError:
        return False


def read_json(path: str | os.PathLike) -> Any:
    """Reads a JSON file, and verifies the checksum of one that `write_json` wrote.

    Raises:
        UserError: the file is missing, not JSON, or not what was written; it is named.
    """
    try:
        return unsealed(json.loads(regular_file(path).read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except DamagedError as error:
        raise UserError(f"{path}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not valid JSON ({error})") from None


class DamagedError(ValueError):
    """JSON whose content is not that of its checksum."""


def sealed(value: JsonObject) -> dict[str, Any]:
    """Returns a JSON object with the member `checksum`, by which `unsealed` sees that a bit of it has changed."""
    plain = json.loads(json.dumps(value))  # as it will be read: tuples are lists, every key is text
    return {**plain, _SEAL: _seal(plain)}


def unsealed(value: Any) -> Any:
    """Returns a JSON value without its `checksum`, which is verified; one that has none is returned as it is.

    Raises:
        DamagedError: the content is not that of the checksum.
    """
    if not isinstance(value, dict):
        return value
    # The name `checksum` may be what is damaged.
    if _SEAL not in value and not any(isinstance(v, str) and v.startswith(_SEAL_START) for v in value.values()):
        return value
    content = {key: member for key, member in value.items() if key != _SEAL}
    if value.get(_SEAL) != _seal(content):
        raise DamagedError(f"damaged, or edited: its content is not that of its {_SEAL!r}; remove that line to use it")
    return content


def _seal(value: JsonObject) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return _SEAL_START + hashlib.sha256(text.encode()).hexdigest()[:16]


def canonical_json(value: Any) -> str:
    """Returns JSON text that depends on content only: sorted keys, no spaces."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def sha256_of_file(path: str | os.PathLike) -> str:
    """Returns the hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
