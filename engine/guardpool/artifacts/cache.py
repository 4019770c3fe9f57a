"""The artifact cache: each guard is compiled once, and what is loaded later is exactly what was compiled.

An artifact is machine code, and the engine runs whatever it is given. So a folder or a file that another user could
have written is not used, and a file that is not whole and unchanged is not used; either is one warning to the logger
`guardpool.cache`, and the guard is compiled. The digest is taken of the very bytes that are handed out: a file is
read once.

Nothing that happens to the cache stops a run. A folder that cannot be made, written or trusted costs the time to
compile.

Writing is a temporary file, fsync, rename and fsync of the folder, so an entry is whole or not there, whichever
process is killed, and when. A lock for each key makes many processes compile once; see `guardpool.artifacts.lock`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from guardpool.artifacts import entry, store, trust
from guardpool.artifacts.compilation import DEFAULT_COMPILE_LIMITS, CompileLimits, compile_guard
from guardpool.artifacts.entry import DamagedError, Header, Ingredients
from guardpool.artifacts.lock import KeyLock, LockTimeoutError
from guardpool.artifacts.trust import UntrustedError
from guardpool.machine.engines import ENGINE_NAMES, choose_engine
from guardpool.sizes import DEFAULT_MEMORY_PAGES

logger = logging.getLogger("guardpool.cache")

# Past the compiler's own time limit the holder of the lock is no longer compiling; writing takes far less time.
_LOCK_GRACE_S = 10.0


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One artifact on disk, as its header tells it; its digest is not checked for a listing.

    Attributes:
        key: 64 hex digits, the file's name without its suffix.
        path: the file.
        size_bytes: the file's size.
        used_s: when it was last used or written, in seconds since 1970.
        problem: why it will not be used, as far as a listing can see; None: nothing is wrong with it.
        header: what it says of itself, or None if that cannot be understood.
        usable_here: made for this machine, this release of guardpool and an engine that can be used here. No process looks for
            others here.
    """

    key: str
    path: Path
    size_bytes: int
    used_s: float
    problem: str | None
    header: Header | None
    usable_here: bool


@dataclass(frozen=True, slots=True)
class CacheProblem:
    """Something in the cache that must not be, or that will not be used.

    Attributes:
        path: the file, or the folder itself.
        reason: what is wrong with it, one line that goes on after the path.
    """

    path: Path
    reason: str

    def __str__(self) -> str:
        return f"{self.path} {self.reason}"


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What `ModuleCache.prune` did.

    Attributes:
        removed: entries that were removed.
        freed_bytes: their sizes together.
        kept: entries that are left.
        kept_bytes: their sizes together.
    """

    removed: int
    freed_bytes: int
    kept: int
    kept_bytes: int


class ModuleCache:
    """Compiled guards in a folder. Any number of threads and processes may use one folder at the same time.

    Making one touches nothing: the folder is made when the first artifact is stored.

    Args:
        path: the folder. None: `$GUARDPOOL_CACHE_DIR`, else `$XDG_CACHE_HOME/guardpool`, else `~/.cache/guardpool`.
    """

    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = default_path() if path is None else Path(os.path.abspath(path))
        self._said: set[str] = set()
        self._said_lock = threading.Lock()

    def __repr__(self) -> str:
        return f"ModuleCache({str(self.path)!r})"

    def get(self, wasm: bytes, memory_pages: int = DEFAULT_MEMORY_PAGES, *, engine: str = "auto") -> bytes | None:
        """The artifact of a module, verified, or None if the cache has none that can be trusted.

        A bad entry is one warning, and is removed. A good one counts as used now. An artifact is for one engine: see
        `GuardPool` for the words.

        Raises:
            EngineMissing: the engine cannot be used in this Python.
            EngineUnknown: `engine` is not one of the words.
        """
        ingredients = entry.describe(wasm, memory_pages, choose_engine(engine).name)
        with self._folder() as folder:
            return None if folder is None else self._load(folder, ingredients)

    def get_or_compile(
        self,
        wasm: bytes,
        memory_pages: int = DEFAULT_MEMORY_PAGES,
        *,
        guard: str | None = None,
        limits: CompileLimits = DEFAULT_COMPILE_LIMITS,
        engine: str = "auto",
    ) -> bytes:
        """The artifact of a module, from the cache or else compiled and stored.

        Of many processes that ask for the same module, one compiles and the others wait for it; should it die, the next
        one compiles. A caller that has waited longer than any compilation can take compiles the module itself and does
        not store it.

        Args:
            wasm: the module, as it is in its file.
            memory_pages: the cap of its linear memory in pages of 64 KiB.
            guard: the guard's name, for messages and for listings of the cache.
            limits: what compiling may take.
            engine: the engine the artifact is for: see `GuardPool`.

        Raises:
            ModuleError, CompileError, EngineMissing, EngineUnknown, HostError: as for `compile_guard`. A fault of the
                cache raises nothing.
        """
        engine = choose_engine(engine).name
        ingredients = entry.describe(wasm, memory_pages, engine)

        def compiled() -> bytes:
            return compile_guard(wasm, memory_pages, guard=guard, limits=limits, engine=engine)

        with self._folder() as folder:
            artifact = None if folder is None else self._load(folder, ingredients)
        if artifact is not None:
            return artifact
        with self._folder(create=True) as folder:
            if folder is None:
                return compiled()
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(KeyLock(folder, ingredients.key(), limits.timeout_s + _LOCK_GRACE_S))
                except LockTimeoutError:
                    self._warn_once(
                        "another process has been compiling the same guard for too long: it is compiled here and not stored"
                    )
                    return compiled()
                except OSError as error:
                    self._cannot_store(error)
                    return compiled()
                artifact = self._load(folder, ingredients)
                if artifact is None:
                    started = time.monotonic()
                    artifact = compiled()
                    self._store(folder, Header(ingredients, guard, time.time(), time.monotonic() - started), artifact)
                return artifact

    def warm(
        self,
        wasm: bytes,
        memory_pages: int = DEFAULT_MEMORY_PAGES,
        *,
        guard: str | None = None,
        limits: CompileLimits = DEFAULT_COMPILE_LIMITS,
        engine: str = "auto",
    ) -> bool:
        """Compile a module ahead of its use; True if it was compiled, False if it was in the cache already.

        Raises:
            ModuleError, CompileError, EngineMissing, EngineUnknown, HostError: as for `get_or_compile`.
        """
        if self.get(wasm, memory_pages, engine=engine) is not None:
            return False
        self.get_or_compile(wasm, memory_pages, guard=guard, limits=limits, engine=engine)
        return True

    def entries(self) -> list[CacheEntry]:
        """What is in the cache, last used first. Reads headers only; `verify` looks at every byte."""
        with self._folder() as folder:
            return [] if folder is None else self._entries(folder)

    def verify(self, *, remove: bool = False) -> list[CacheProblem]:
        """Read every entry whole and report each that would not be used, by path; changes nothing unless told to.

        Args:
            remove: remove the entries that are reported.
        """
        try:
            folder = trust.open_folder(self.path)
        except FileNotFoundError:
            return []
        except (UntrustedError, OSError) as error:
            return [CacheProblem(self.path, f"cannot be used: {_reason(error)}")]
        problems = []
        try:
            for key in store.keys(folder):
                reason = _soundness(folder, key)
                if reason is not None:
                    problems.append(CacheProblem(self._file(key), reason))
                    if remove:
                        trust.remove(folder, key + entry.SUFFIX)
        finally:
            os.close(folder)
        return problems

    def prune(self, max_bytes: int | None = None, max_age_s: float | None = None) -> PruneReport:
        """Remove entries, least recently used first, until what is left fits; and what dead writers left behind.

        Args:
            max_bytes: what all entries together may take; None: any amount.
            max_age_s: how long ago the last use of an entry may be, in seconds; None: any time.
        """
        for name, value in (("max_bytes", max_bytes), ("max_age_s", max_age_s)):
            if value is not None and not value >= 0:
                raise ValueError(f"{name} must be 0 or more, not {value!r}")
        removed = freed = kept = kept_bytes = 0
        oldest = None if max_age_s is None else time.time() - max_age_s
        with self._folder() as folder:
            if folder is None:
                return PruneReport(0, 0, 0, 0)
            store.sweep(folder)
            full = False
            for each in self._entries(folder):
                full = full or (max_bytes is not None and kept_bytes + each.size_bytes > max_bytes)
                too_old = oldest is not None and each.used_s < oldest
                if (full or too_old) and trust.remove(folder, each.path.name):
                    removed += 1
                    freed += each.size_bytes
                else:
                    kept += 1
                    kept_bytes += each.size_bytes
        return PruneReport(removed, freed, kept, kept_bytes)

    def clear(self) -> int:
        """Remove every entry and what dead writers left behind; returns how many entries were removed. Other files
        stay."""
        with self._folder() as folder:
            if folder is None:
                return 0
            store.sweep(folder)
            return sum(trust.remove(folder, key + entry.SUFFIX) for key in store.keys(folder))

    @contextlib.contextmanager
    def _folder(self, *, create: bool = False) -> Iterator[int | None]:
        """The opened cache folder; None if it does not exist or, after one warning, if it cannot be used."""
        folder = None
        try:
            folder = trust.open_folder(self.path, create=create)
        except FileNotFoundError as error:
            if create:
                self._cannot_store(error)
        except UntrustedError as error:
            self._warn_once(f"not used, and guards are compiled each time: {error}")
        except OSError as error:
            self._cannot_store(error)
        try:
            yield folder
        finally:
            if folder is not None:
                os.close(folder)

    def _load(self, folder: int, ingredients: Ingredients) -> bytes | None:
        name = ingredients.key() + entry.SUFFIX
        seen: os.stat_result | None = None
        try:
            fd, seen = trust.open_file(folder, name, entry.MAX_ENTRY_BYTES)
            try:
                data = store.read(fd, seen.st_size)
                _, body = entry.decode_entry(data, ingredients)
                with contextlib.suppress(OSError):  # a read-only cache works as well; it only cannot note what was used
                    os.utime(fd)
            finally:
                os.close(fd)
        except FileNotFoundError:
            return None
        except (UntrustedError, DamagedError, OSError) as error:
            gone = trust.remove(folder, name, seen)
            logger.warning(
                "%s %s: it %s, and the guard is compiled again",
                self.path / name, _reason(error), "was removed" if gone else "is not used",
            )  # fmt: skip
            return None
        return bytes(body)

    def _store(self, folder: int, header: Header, artifact: bytes) -> None:
        name = header.ingredients.key() + entry.SUFFIX
        try:
            store.write(folder, name, entry.encode_entry(header, artifact))
        except OSError as error:
            self._cannot_store(error)

    def _entries(self, folder: int) -> list[CacheEntry]:
        here: list[Ingredients] = []
        for engine in ENGINE_NAMES:
            with contextlib.suppress(
                Exception
            ):  # what no engine can load is not usable here, and a listing still works
                here.append(entry.describe(b"", 1, engine))
        entries = []
        for key in store.keys(folder):
            try:
                info = os.stat(key + entry.SUFFIX, dir_fd=folder, follow_symlinks=False)
            except OSError:
                continue  # another process has just removed it
            header, problem = _peek(folder, key)
            usable = header is not None and any(map(header.ingredients.same_host, here))
            entries.append(
                CacheEntry(
                    key, self._file(key), info.st_size, info.st_mtime, problem, header, usable and problem is None
                )
            )
        return sorted(entries, key=lambda each: (-each.used_s, each.key))

    def _file(self, key: str) -> Path:
        return self.path / (key + entry.SUFFIX)

    def _cannot_store(self, error: OSError) -> None:
        self._warn_once(f"{_reason(error)}: compiled guards cannot be stored, and are compiled each time")

    def _warn_once(self, message: str) -> None:
        with self._said_lock:
            known = message in self._said
            self._said.add(message)
        if not known:
            logger.warning("cache folder %s: %s", self.path, message)


def default_path() -> Path:
    """The cache folder if no path is given; `~/.cache/guardpool`, which is not absolute, for a user without a home."""
    named = os.environ.get("GUARDPOOL_CACHE_DIR")
    if named:
        return Path(os.path.abspath(os.path.expanduser(named)))  # a quoted or exported `~` was not expanded by a shell
    # The XDG specification: a relative path is invalid and must be ignored.
    base = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(base):
        return Path(base, "guardpool")
    # Without HOME the user database is asked. A container that runs under a mere number has no entry there.
    home = os.environ.get("HOME") or os.path.expanduser("~")
    return Path(home if os.path.isabs(home) else "~", ".cache", "guardpool")


def _peek(folder: int, key: str) -> tuple[Header | None, str | None]:
    try:
        fd, _ = trust.open_file(folder, key + entry.SUFFIX, entry.MAX_ENTRY_BYTES)
        try:
            header = entry.decode_header(os.read(fd, entry.MAX_HEADER_BYTES * 2))
        finally:
            os.close(fd)
    except (UntrustedError, DamagedError, OSError) as error:
        return None, _reason(error)
    return header, None if header.ingredients.key() == key else "has the name of another artifact"


def _soundness(folder: int, key: str) -> str | None:
    """What is wrong with an entry, every byte considered; None if it is sound."""
    try:
        fd, info = trust.open_file(folder, key + entry.SUFFIX, entry.MAX_ENTRY_BYTES)
        try:
            header, _ = entry.decode_entry(store.read(fd, info.st_size))
        finally:
            os.close(fd)
    except FileNotFoundError:
        return None
    except (UntrustedError, DamagedError, OSError) as error:
        return _reason(error)
    return None if header.ingredients.key() == key else "has the name of another artifact"


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return f"cannot be used ({error.strerror or error})"
    return str(error)
