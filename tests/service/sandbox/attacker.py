"""Workers whose decoder is in an attacker's hands: each makes one attempt on the world and reports how it went.

Usage: attacker.py UID FOLDER TCP_PORT VICTIM_PID. Prints two maps in JSON, of outcomes outside workers and inside.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import platform
import resource
import signal
import socket
import sys
import threading
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from media.limits import MediaLimits
from service.sandbox import seccomp, worker
from service.sandbox.ipc import Channel, ClosedError

Attempt = Callable[[], Any]
LIBC = ctypes.CDLL(None, use_errno=True)
MACHINE = int(platform.machine() == "aarch64")
MPTCP, AF_VSOCK, AF_ALG = 262, 40, 38


def check(result: int) -> int:
    """Raise what a function of C reports."""
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def senseless(number: int) -> None:
    """Make a system call that does nothing even where it is allowed: none of its arguments is valid."""
    check(LIBC.syscall(number, ctypes.c_long(-1), None, None, ctypes.c_long(-1), None, None))


def fork() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)


def thread() -> None:
    started = threading.Thread(target=int)
    started.start()
    started.join()


def udp() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def mprotect_code() -> None:
    page = mmap.mmap(-1, mmap.PAGESIZE)
    address = ctypes.addressof(ctypes.c_char.from_buffer(page))
    check(LIBC.mprotect(ctypes.c_void_p(address), mmap.PAGESIZE, 5))


def attempts(folder: Path, port: int, victim: int) -> dict[str, Attempt]:
    """Return what code in a decoder could try; each raises OSError where it is denied."""
    parent, file = os.getpid(), folder / "victim"
    api = ("127.0.0.1", port)
    core = resource.prlimit(victim, resource.RLIMIT_CORE)
    inherited = os.open(file, os.O_RDWR)
    link, shared = folder / f"link-{os.getpid()}", f"/dev/shm/attacker-{os.getpid()}"
    return {
        "open a file": lambda: open("/etc/passwd"),
        "open its own maps": lambda: open("/proc/self/maps"),
        "open the memory of its parent": lambda: open(f"/proc/{parent}/mem", "rb"),
        "list a folder": lambda: os.listdir("/"),
        "stat": lambda: os.stat("/etc/passwd"),
        "read a link": lambda: os.readlink("/proc/self/exe"),
        "change folder": lambda: os.chdir("/"),
        "chmod": lambda: os.chmod(file, 0o600),
        "chown": lambda: os.chown(file, os.getuid(), -1),
        "chmod of an open file": lambda: os.fchmod(inherited, 0o600),
        "utime": lambda: os.utime(file),
        "setxattr": lambda: os.setxattr(file, "user.x", b"1"),
        "symlink": lambda: os.symlink("/etc", link),
        "link": lambda: os.link(file, f"{link}-hard"),
        "unlink": lambda: os.unlink(file),
        "rename": lambda: os.rename(file, f"{file}-renamed"),
        "create in shared memory": lambda: (open(shared, "w").close(), os.unlink(shared)),
        "map an open file": lambda: mmap.mmap(inherited, 1),
        "memfd": lambda: os.memfd_create("x"),
        "SysV shared memory": lambda: check(LIBC.shmget(0, 4096, 0o1600)),
        "UDP send": lambda: udp().sendto(b"x", ("127.0.0.1", 9)),
        "UDP bind": lambda: udp().bind(("127.0.0.1", 0)),
        "TCP connect": lambda: socket.socket().connect(api),
        "TCP bind": lambda: socket.socket().bind(("127.0.0.1", 0)),
        "TCP listen": lambda: socket.socket().listen(),
        "MPTCP connect": lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, MPTCP).connect(api),
        "Unix socket": lambda: socket.socket(socket.AF_UNIX).connect(str(folder / "socket")),
        "abstract socket": lambda: socket.socket(socket.AF_UNIX).bind(f"\0attacker-{parent}"),
        "socket pair": socket.socketpair,
        "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
        "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
        "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0),
        "vsock socket": lambda: socket.socket(AF_VSOCK, socket.SOCK_STREAM),
        "crypto socket": lambda: socket.socket(AF_ALG, 5, 0),
        "pipe": os.pipe,
        "epoll": lambda: check(LIBC.epoll_create1(0)),
        "inotify": lambda: check(LIBC.inotify_init1(0)),
        "fork": fork,
        "thread": thread,
        "signal its parent": lambda: os.kill(parent, 0),
        "signal another process": lambda: os.kill(victim, 0),
        "priority of its parent": lambda: os.setpriority(os.PRIO_PROCESS, parent, os.nice(0)),
        "affinity of its parent": lambda: os.sched_setaffinity(parent, os.sched_getaffinity(0)),
        "limits of another, read": lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE),
        "limits of another, write": lambda: resource.prlimit(victim, resource.RLIMIT_CORE, core),
        "more processes": lambda: resource.setrlimit(resource.RLIMIT_NPROC, (100, 100)),
        "more memory": lambda: resource.setrlimit(resource.RLIMIT_AS, (2**40, 2**40)),
        "another user": lambda: os.setuid(os.getuid()),
        "memory that is data and code": lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=7),
        "memory that is code": lambda: mmap.mmap(-1, mmap.PAGESIZE, prot=5),
        "data made code": mprotect_code,
    } | {name: partial(senseless, numbers[MACHINE]) for name, numbers in seccomp.FATAL.items()}


def outcome(attempt: Attempt) -> str:
    """Return "allowed" or the error."""
    try:
        attempt()
    except (OSError, RuntimeError, ValueError) as error:  # Python has its own for threads and limits
        return type(error).__name__
    return "allowed"


def outside(attempt: Attempt) -> str:
    """Make an attempt in a process of its own without a sandbox."""
    child = os.fork()
    if child == 0:
        os._exit(0 if outcome(attempt) == "allowed" else 1)
    return "allowed" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 else "denied"


def inside(attempt: Attempt) -> str:
    """Make an attempt in place of decoding a file; "killed" if the kernel ends the worker for it."""
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    child = os.fork()
    if child == 0:
        ours.close()
        worker.decode = lambda channel, task, limits: channel.send({"outcome": outcome(attempt)})
        worker.main(theirs.detach())
        os._exit(0)
    theirs.close()
    channel = Channel(ours)
    channel.send({"limits": asdict(MediaLimits()), "memory": 2**31, "parent": parent, "niceness": 0})
    assert channel.receive() == {"kind": "ready", "missing": []}
    try:
        channel.send({"op": "decode", "seconds": 10})
        return str(channel.receive()["outcome"])
    except ClosedError:
        return "killed" if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGSYS else "died"
    finally:
        channel.close()


def main(uid: int, folder: str, port: int, victim: int) -> None:
    """Make every attempt, inside as `uid`."""
    worker.load_codecs()  # another user may not be able to read them
    made = attempts(Path(folder), port, victim)
    changing = ("unlink", "rename")
    before = {what: outside(attempt) for what, attempt in made.items() if what not in changing}
    if uid != os.getuid():
        os.setgroups([])
        os.setgid(uid)
        os.setuid(uid)
    print(json.dumps([before, {what: inside(attempt) for what, attempt in made.items()}]))


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
