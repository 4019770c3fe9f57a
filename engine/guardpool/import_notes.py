"""What becomes of a guard's calls of each function that it may import, in a few words for `guardpool inspect`.

Source: the guard contract, "call_backend", "host_log" and "WASI, denied by default".
"""

from __future__ import annotations

_ENV = {
    "call_backend": "asks the guard's backend",
    "host_log": "writes to the guard's log",
}
_WASI = {
    "clock_res_get": "works",
    "clock_time_get": "works",
    "fd_read": "standard input is at its end",
    "fd_write": "standard output and error go to the guard's log",
    "poll_oneoff": "answers at once: nothing is waited for",
    "proc_exit": "ends the call; with a code but 0 the instance, too",
    "proc_raise": "denied",
    "random_get": "works",
    "sched_yield": "does nothing",
}
# By the beginning of the name; the first that fits.
_FAMILIES = (
    ("args_", "there are none"),
    ("environ_", "there are none"),
    ("path_", "denied: there are no files"),
    ("fd_prestat_", "denied: there are no files"),
    ("fd_", "denied, but for what holds of standard streams"),
    ("sock_", "denied: there is no network"),
)


def note_on(module: str, name: str) -> str:
    """The note on a function that the contract knows."""
    if module == "env":
        return _ENV[name]
    return _WASI.get(name) or next(note for prefix, note in _FAMILIES if name.startswith(prefix))
