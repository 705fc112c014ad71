"""A seccomp filter that leaves a worker the system calls of decoding: an allow-list in classic BPF, set by ctypes."""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import resource
import struct
from collections.abc import Iterator, Mapping

# Each call's number on x86_64 and on aarch64, from the kernel's tables; None where an architecture lacks it.
Numbers = Mapping[str, tuple[int | None, int | None]]

ALLOWED: Numbers = {
    "read": (0, 63),
    "write": (1, 64),
    "readv": (19, 65),
    "writev": (20, 66),
    "close": (3, 57),
    "fstat": (5, 80),
    "lseek": (8, 62),
    "poll": (7, None),
    "ppoll": (271, 73),
    "dup": (32, 23),
    "dup2": (33, None),
    "dup3": (292, 24),
    "recvfrom": (45, 207),
    "munmap": (11, 215),
    "mremap": (25, 216),
    "madvise": (28, 233),
    "brk": (12, 214),
    "futex": (202, 98),
    "sched_yield": (24, 124),
    "nanosleep": (35, 101),
    "clock_nanosleep": (230, 115),
    "clock_gettime": (228, 113),
    "clock_getres": (229, 114),
    "gettimeofday": (96, 169),
    "getrandom": (318, 278),
    "getrusage": (98, 165),
    "getpid": (39, 172),
    "gettid": (186, 178),
    "getcpu": (309, 168),
    "sysinfo": (99, 179),
    "rt_sigaction": (13, 134),
    "rt_sigprocmask": (14, 135),
    "rt_sigreturn": (15, 139),
    "sigaltstack": (131, 132),
    "restart_syscall": (219, 128),
    "exit": (60, 93),
    "exit_group": (231, 94),
}
CONDITIONAL: Numbers = {
    "mmap": (9, 222),
    "mprotect": (10, 226),
    "sendto": (44, 206),
    "ioctl": (16, 29),
    "prlimit64": (302, 261),
    "sched_getaffinity": (204, 123),
    "tgkill": (234, 131),
}
# No decoder makes these calls by accident: one of them is an exploit at work, which gets no second try.
FATAL: Numbers = {
    "execve": (59, 221),
    "execveat": (322, 281),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "bpf": (321, 280),
    "perf_event_open": (298, 241),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "move_mount": (429, 429),
    "open_tree": (428, 428),
    "fsopen": (430, 430),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "kexec_load": (246, 104),
}

_MACHINES = ("x86_64", "aarch64")
_SECCOMP = (317, 277)
_AUDIT_ARCHS = (0xC000003E, 0xC00000B7)
_X32_CALLS = 0x40000000  # the second table of calls of x86_64

_SET_MODE_FILTER = 1
_ALLOW, _REFUSE, _KILL = 0x7FFF0000, 0x00050000 | errno.EPERM, 0x80000000

# Instructions of classic BPF, and offsets into `struct seccomp_data`.
_LOAD, _AND, _RETURN, _IF_EQUAL, _IF_AT_LEAST = 0x20, 0x54, 0x06, 0x15, 0x35
_NUMBER, _ARCH, _ARGUMENTS = 0, 4, 16

_EVERY_BIT = 0xFFFFFFFF
_PROT_EXEC, _MAP_ANONYMOUS, _FIONBIO = 0x4, 0x20, 0x5421

_Instruction = tuple[int, int, int, int]
_Condition = tuple[int, int, int]  # half of an argument, the bits that count, their value

_LIBC = ctypes.CDLL(None, use_errno=True)


def install() -> bool:
    """Leave this process, which must have one thread, the calls of the tables above; false if the kernel cannot.

    Every other call fails with EPERM, as libraries that probe for a feature expect; those in `FATAL` end the process.

    Raises:
        OSError: the kernel refuses the filter.
    """
    machine = platform.machine()
    if machine not in _MACHINES:
        return False
    filters = b"".join(struct.pack("=HBBI", *line) for line in program(_MACHINES.index(machine), os.getpid()))
    buffer = ctypes.create_string_buffer(filters, len(filters))
    header = struct.pack("@HP", len(filters) // 8, ctypes.addressof(buffer))
    if _LIBC.syscall(_SECCOMP[_MACHINES.index(machine)], _SET_MODE_FILTER, 0, header) == 0:
        return True
    if ctypes.get_errno() in (errno.ENOSYS, errno.EINVAL):
        return False
    raise OSError(ctypes.get_errno(), "The kernel refused the seccomp filter.")


def program(machine: int, pid: int) -> list[_Instruction]:
    """Return the filter for a machine (its position in the tables) and the process that it is for."""
    lines: list[_Instruction] = [
        (_LOAD, 0, 0, _ARCH),
        (_IF_EQUAL, 1, 0, _AUDIT_ARCHS[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        (_IF_AT_LEAST, 0, 1, _X32_CALLS),
        (_RETURN, 0, 0, _KILL),
    ]
    for table, answer in ((ALLOWED, _ALLOW), (FATAL, _KILL)):
        for numbers in table.values():
            number = numbers[machine]
            if number is not None:
                lines += [(_IF_EQUAL, 0, 1, number), (_RETURN, 0, 0, answer)]
    for name, conditions in _conditions(pid).items():
        number = CONDITIONAL[name][machine]
        assert number is not None
        block = [line for condition in conditions for line in _unless(condition)]
        lines += [(_IF_EQUAL, 0, len(block) + 1, number), *block, (_RETURN, 0, 0, _ALLOW)]
    return [*lines, (_RETURN, 0, 0, _REFUSE)]


def _conditions(pid: int) -> dict[str, list[_Condition]]:
    """Return what must hold for the arguments of each call in `CONDITIONAL`."""
    return {
        # No file and no device is mapped, and no memory becomes code.
        "mmap": [(_low(2), _PROT_EXEC, 0), (_low(3), _MAP_ANONYMOUS, _MAP_ANONYMOUS)],
        "mprotect": [(_low(2), _PROT_EXEC, 0)],
        # On the socket that is open, without an address.
        "sendto": [(_low(4), _EVERY_BIT, 0), (_high(4), _EVERY_BIT, 0)],
        "ioctl": [(_low(1), _EVERY_BIT, _FIONBIO)],
        # Of this process alone; root could lift its other limits.
        "prlimit64": [(_low(0), _EVERY_BIT, 0), (_low(1), _EVERY_BIT, resource.RLIMIT_CPU)],
        "sched_getaffinity": [(_low(0), _EVERY_BIT, 0)],
        # A failed assertion in C ends the process by a signal to itself.
        "tgkill": [(_low(0), _EVERY_BIT, pid)],
    }


def _unless(condition: _Condition) -> Iterator[_Instruction]:
    """Refuse the call unless a condition holds."""
    half, bits, value = condition
    yield (_LOAD, 0, 0, half)
    yield (_AND, 0, 0, bits)
    yield (_IF_EQUAL, 1, 0, value)
    yield (_RETURN, 0, 0, _REFUSE)


def _low(argument: int) -> int:
    """Return the offset of the lower half of an argument; both machines are little-endian."""
    return _ARGUMENTS + 8 * argument


def _high(argument: int) -> int:
    return _low(argument) + 4
