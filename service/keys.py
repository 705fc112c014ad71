"""Keys of callers: a file of their digests, the scopes that each has, and a budget of work a minute."""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, cast, get_args

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass as pydantic_dataclass

from model.atomic_write import replace_file
from service.loopback import is_loopback
from service.settings import Settings

Scope = Literal["encode", "decode", "generate", "admin"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
PREFIX = "omnitok_"  # scanners of leaked secrets find keys by it
KEY_BYTES = 32  # random, so that one plain SHA-256 is as hard to invert as the key is to guess
MAX_KEY_CHARACTERS = 256
MAX_FILE_BYTES = 2**20
CHECK_SECONDS = 1.0  # between looks at the file

log = logging.getLogger("omnitok.http")


class KeyFileError(OSError):
    """The file of keys cannot be used; the message is one sentence."""


@pydantic_dataclass(frozen=True, config=ConfigDict(extra="forbid"))
class Key:
    """A caller.

    Args:
        name: unique in its file; logs have it.
        sha256: of the key, 64 hex digits.
        scopes: routes that the key opens; "admin" opens all.
        positions_per_minute: latent positions of its requests, or None for any number.
    """

    name: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    scopes: tuple[Scope, ...] = Field(min_length=1)
    positions_per_minute: int | None = Field(None, gt=0)

    def allows(self, scopes: Iterable[str]) -> bool:
        """Return whether the key has all of these scopes."""
        return "admin" in self.scopes or set(scopes) <= set(self.scopes)


_KEYS = TypeAdapter(tuple[Key, ...])


def digest(key: str) -> str:
    """Return what is kept of a key."""
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()


def read_keys(path: Path) -> tuple[Key, ...]:
    """Return the keys of a file.

    Raises:
        KeyFileError: it is missing, damaged, or names a caller twice.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise KeyFileError(f"{path} may have {MAX_FILE_BYTES} bytes; it has more.")
        keys = _KEYS.validate_json(path.read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise KeyFileError(f"{path} is not a file of keys: {where or 'the whole'}: {first['msg']}.") from error
    except KeyFileError:
        raise
    except OSError as error:
        raise KeyFileError(f"The file of keys {path} cannot be read: {error.strerror}.") from error
    names = [key.name for key in keys]
    if len(set(names)) != len(names):
        raise KeyFileError(f"{path} names a caller twice. Give each key a name of its own.")
    return keys


def write_keys(path: Path, keys: Sequence[Key]) -> None:
    """Write a file of keys as a whole, readable by its owner alone if it is new."""
    if not path.exists():
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    mode = path.stat().st_mode & 0o777
    replace_file(path, json.dumps([asdict(key) for key in keys], indent=2).encode() + b"\n")
    path.chmod(mode)


def new_key(name: str, scopes: Sequence[str], positions_per_minute: int | None = None) -> tuple[str, Key]:
    """Return a new random key and what is kept of it.

    Raises:
        ValueError: a name, a scope or a number that no key has.
    """
    secret = PREFIX + secrets.token_urlsafe(KEY_BYTES)
    return secret, Key(
        name, digest(secret), cast("tuple[Scope, ...]", tuple(dict.fromkeys(scopes))), positions_per_minute
    )


@dataclass
class Budget:
    """Latent positions that a key may still use: a minute's worth at most, refilled steadily.

    A request is let in while anything is left and charged what it costs, so that the balance may fall below zero.
    """

    per_minute: float
    updated: float
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.per_minute

    def refill(self, now: float) -> None:
        """Add what time has brought."""
        self.left = min(self.per_minute, self.left + self.per_minute * (now - self.updated) / 60)
        self.updated = now

    def seconds_until(self, amount: float) -> float:
        """Return the time until that much is left."""
        return max(0.0, 60 * (amount - self.left) / self.per_minute)


class KeyRing:
    """The keys of a file, which is read again when it changes; a damaged one leaves the last good keys in force.

    Args:
        path: the file.
        replicas: that share each budget.
        clock: seconds.

    Raises:
        KeyFileError: the file cannot be used at the start.
    """

    def __init__(self, path: Path, replicas: int = 1, clock: Callable[[], float] = time.monotonic) -> None:
        self._path, self._replicas, self._clock = path, replicas, clock
        self._budgets: dict[str, Budget] = {}
        self._mark = self._look()
        self._keys = read_keys(path)
        self._next_look = clock() + CHECK_SECONDS

    def find(self, secret: str) -> Key | None:
        """Return the key that a caller presents, or None; every key is compared, in constant time."""
        self._reload()
        if len(secret) > MAX_KEY_CHARACTERS:
            return None
        found, presented = None, digest(secret)
        for key in self._keys:
            if hmac.compare_digest(key.sha256, presented):
                found = key
        return found

    def budget(self, key: Key) -> Budget | None:
        """Return the present budget of a key in this replica, or None if it has none."""
        if key.positions_per_minute is None:
            return None
        now, share = self._clock(), key.positions_per_minute / self._replicas
        budget = self._budgets.get(key.name)
        if budget is None:
            budget = self._budgets[key.name] = Budget(share, now)
        budget.refill(now)
        budget.per_minute = share  # a changed file changes what follows
        budget.left = min(budget.left, share)
        return budget

    def _reload(self) -> None:
        now = self._clock()
        if now < self._next_look:
            return
        self._next_look = now + CHECK_SECONDS
        mark = self._look()
        if mark == self._mark:
            return
        self._mark = mark
        try:
            self._keys = read_keys(self._path)
        except KeyFileError as error:
            log.error("keys", extra={"fields": {"problem": f"{error} The last good keys stay in force."}})
            return
        names = {key.name for key in self._keys}
        self._budgets = {name: budget for name, budget in self._budgets.items() if name in names}
        log.info("keys", extra={"fields": {"loaded": len(self._keys)}})

    def _look(self) -> tuple[int, int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_mtime_ns, status.st_size, status.st_ino


def check_access(settings: Settings) -> None:
    """Check that nobody but this machine reaches the service without a key.

    Raises:
        KeyFileError: it would be open to others, or its file of keys cannot be used.
    """
    if settings.keys is not None:
        read_keys(settings.keys)
    elif not settings.open_access and not is_loopback(settings.host):
        raise KeyFileError(
            f"The service would listen on {settings.host} for anyone. Make a key with `omnitok keys add NAME` and set "
            "OMNITOK_KEYS to its file, or set OMNITOK_OPEN_ACCESS=true where a gateway or a firewall protects the port."
        )
