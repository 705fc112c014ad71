"""The restrictions that a worker puts on itself before it reads the first hostile byte."""

from __future__ import annotations

import ctypes
import math
import os
import resource
import signal
import struct

from service.sandbox import seccomp

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_OPEN_FILES = 16
_CAPABILITIES_VERSION = 0x20080522
_LANDLOCK_CREATE_RULESET = 444
_LANDLOCK_RESTRICT_SELF = 446

_LIBC = ctypes.CDLL(None, use_errno=True)


def enter(memory_bytes: int, parent: int) -> list[str]:
    """Give up what decoding does not need. To be called after every import: none can be done later.

    Args:
        memory_bytes: address space of this process, bytes.
        parent: process id of the pool; this process dies with it.

    Returns:
        The names of the walls that this kernel or container lacks, of "Landlock" and "seccomp".

    Raises:
        OSError: the kernel refuses.
        SystemExit: the parent has died already.
    """
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before the line above took hold
        raise SystemExit(0)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _limit(resource.RLIMIT_AS, memory_bytes)
    _limit(resource.RLIMIT_NOFILE, _OPEN_FILES)
    _limit(resource.RLIMIT_NPROC, 0)  # binds all but root, whom only seccomp keeps from starting processes
    _limit(resource.RLIMIT_FSIZE, 0)
    _limit(resource.RLIMIT_CORE, 0)
    _drop_capabilities()
    walls = {"Landlock": _leave_file_system, "seccomp": seccomp.install}
    return [name for name, build in walls.items() if not build()]


def landlock_version() -> int:
    """Return the version of the kernel's Landlock interface; 0 where the kernel or the container has none."""
    return max(_LIBC.syscall(_LANDLOCK_CREATE_RULESET, None, 0, 1), 0)


def allow_cpu(seconds: float) -> None:
    """Let the kernel end this process after `seconds` more of CPU time, should the pool fail to."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    bound = math.ceil(used.ru_utime + used.ru_stime + seconds) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))


def _limit(which: int, value: int) -> None:
    hard = resource.getrlimit(which)[1]
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (value, value))


def _drop_capabilities() -> None:
    """Keep none of the rights of root, such as lifting a limit."""
    header, nothing = struct.pack("=Ii", _CAPABILITIES_VERSION, 0), bytes(24)
    if _LIBC.capset(header, nothing) != 0:
        raise OSError(ctypes.get_errno(), "The kernel kept the capabilities of this process.")


def _leave_file_system() -> bool:
    """Deny every path and TCP port; what is open stays open. False if the kernel cannot.

    Older versions of the interface know fewer kinds of access; each is denied what it knows.
    """
    version = landlock_version()
    if version == 0:
        return False
    paths = (1 << 13) - 1
    for since, bit in ((2, 13), (3, 14), (5, 15)):  # linking across folders, truncating, device control
        paths |= (1 << bit) if version >= since else 0
    denied = struct.pack("=QQQ", paths, 0b11 if version >= 4 else 0, 0b11 if version >= 6 else 0)
    size = 8 * (1 + (version >= 4) + (version >= 6))  # TCP; abstract sockets and signals
    rules = _LIBC.syscall(_LANDLOCK_CREATE_RULESET, denied, size, 0)
    if rules < 0 or _LIBC.syscall(_LANDLOCK_RESTRICT_SELF, rules, 0) != 0:
        raise OSError(ctypes.get_errno(), "Landlock refused its rules.")
    os.close(rules)
    return True


def _prctl(option: int, value: int) -> None:
    if _LIBC.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"The call prctl({option}) failed.")
