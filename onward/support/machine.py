"""What this machine lets a process use."""

import os
from pathlib import Path


def memory_limit(root: Path = Path("/sys/fs/cgroup"), groups: Path = Path("/proc/self/cgroup")) -> int:
    """The bytes of memory that this process may use: the machine's, or less if a control group of Linux has a limit, as
    in a container or a job of SLURM.
    """
    machine = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return min([machine, *_limits(root, groups)])


def _limits(root: Path, groups: Path) -> list[int]:
    try:
        lines = groups.read_text().splitlines()
    except OSError:
        return []  # another system
    found = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            top, name = root, "memory.max"
        elif "memory" in controllers.split(","):
            top, name = root / "memory", "memory.limit_in_bytes"
        else:
            continue
        inner = top / group.lstrip("/")
        for folder in (inner, *inner.parents):
            if not folder.is_relative_to(top):
                break
            try:
                found.append(int((folder / name).read_text()))
            except (OSError, ValueError):  # there is no such file in a container, and "max" is no limit
                continue
    return found
