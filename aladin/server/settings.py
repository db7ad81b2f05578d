"""What `aladin serve` serves, to whom, and within which limits. Every default of the server stands here."""

import hashlib
import hmac
import ipaddress
import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from aladin.errors import ConfigError, DataError

Scope = Literal["search", "write", "admin"]
RANK: dict[str, int] = {"search": 0, "write": 1, "admin": 2}  # a scope includes those before it
TOKENS_VARIABLE = "ALADIN_TOKENS"
MIN_TOKEN = 16  # characters: shorter ones can be guessed
MOST_SEARCHES = 4  # processes that search, of some 100 MB each, on a machine of more cores
LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Tokens:
    """Which tokens open which scope; only their hashes are kept."""

    digests: tuple[tuple[bytes, Scope], ...] = ()

    def __bool__(self) -> bool:
        return bool(self.digests)

    @classmethod
    def parse(cls, lines: Iterable[str], source: str) -> "Tokens":
        """From lines such as `search 0f3b...`; empty ones and those that begin with # are skipped."""
        digests: list[tuple[bytes, Scope]] = []
        for number, line in enumerate(lines, 1):
            if not line.strip() or line.strip().startswith("#"):
                continue
            scope, _, token = line.strip().partition(" ")
            token = token.strip()
            # The line itself stays out of the message: it may be a token.
            if scope not in RANK or not token or " " in token:
                raise ConfigError(f"{source}, line {number}: expected `search TOKEN`, `write TOKEN` or `admin TOKEN`")
            if len(token) < MIN_TOKEN or not token.isascii():
                raise ConfigError(f"{source}, line {number}: the token is too short; give {MIN_TOKEN} ASCII characters or more")
            digests.append((_digest(token), scope))  # type: ignore[arg-type]
        return cls(tuple(digests))

    @classmethod
    def read(cls, path: Path | None) -> "Tokens":
        """Those of a file that only its owner can read, and those of the variable ALADIN_TOKENS, parted by semicolons."""
        own = cls.parse(os.environ.get(TOKENS_VARIABLE, "").split(";"), TOKENS_VARIABLE)
        if path is None:
            return own
        try:
            if stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise DataError(f"others may read the tokens in {path}; run chmod 600 on it")
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"the tokens in {path} cannot be read ({error}); give a text file") from None
        return cls(own.digests + cls.parse(lines, str(path)).digests)

    def scope_of(self, token: str) -> Scope | None:
        """The widest scope that a token opens; the time this takes does not depend on how much of it is right."""
        given, found = _digest(token), None
        for digest, scope in self.digests:
            if hmac.compare_digest(given, digest) and (found is None or RANK[scope] > RANK[found]):
                found = scope
        return found


@dataclass(frozen=True)
class Limits:
    """What one client may ask for, and all clients together."""

    json_bytes: int = 1 << 18
    image_bytes: int = 32 << 20  # of an upload
    body_seconds: float = 30.0  # for a whole request body to arrive
    header_seconds: float = 15.0  # for a request's head
    upload_store_bytes: int = 128 << 20  # of all uploads kept for queries
    upload_seconds: float = 3600.0  # that an upload is kept
    workers: int = 0  # searches at once, each by a process of its own; 0: one a core, and no more than `MOST_SEARCHES`
    waiting: int | None = None  # searches that wait for a worker; None: half as many as there are workers, at least one
    renderings_waiting: int = 256  # pictures that wait to be made
    picture_cache_bytes: int = 96 << 20
    decode_seconds: float = 20.0  # for one picture
    decode_memory_mb: int = 2048  # address space of a process that decodes
    stop_seconds: int = 10  # that requests have to end when the server is stopped

    @property
    def searches(self) -> int:
        """Searches at once."""
        return self.workers or min(os.cpu_count() or 1, MOST_SEARCHES)

    @property
    def renderings(self) -> int:
        """Pictures that are made at once."""
        return self.workers or os.cpu_count() or 1

    @property
    def searches_taken(self) -> int:
        """Searches at work or waiting; the next is told to come again. So few, since two may take twice as long as one: who is
        let in shall have an answer in three times the time that it takes alone.
        """
        return self.searches + (max(self.searches // 2, 1) if self.waiting is None else self.waiting)


@dataclass(frozen=True)
class ServeConfig:
    """One folder, its collection, a model, and where they are served."""

    folder: Path
    file: Path  # of the collection
    model: Path
    host: str = "127.0.0.1"
    port: int = 8321
    allowed_hosts: tuple[str, ...] = ()  # further names that clients may use for this server
    tokens: Tokens = Tokens()
    index: bool = True  # look for new and changed files when the server starts
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        if not self.tokens and not is_loopback(self.host):
            raise ConfigError(
                f"{self.host} can be reached from other machines, and there is no token; "
                f"give tokens with --tokens FILE or {TOKENS_VARIABLE}, or serve on 127.0.0.1"
            )

    @property
    def names(self) -> frozenset[str]:
        """The host names that a request may be addressed to; others are those of a web page that plays a trick on DNS."""
        own = () if self.host in ("0.0.0.0", "::", "") else (self.host,)
        return frozenset(name.lower().rstrip(".") for name in (*LOCAL_NAMES, *own, *self.allowed_hosts))


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a server at that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
