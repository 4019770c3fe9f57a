"""Every function that a guard may import, with its type, and what a guard's call of it does. Plain data.

The module's rules compare a guard's imports with these types, `guardpool inspect` shows the notes, and the worker links each
function. Pointers, sizes, descriptors, flags and the errno that comes back are `i32`; file sizes, offsets, times, rights
and directory cookies are `i64`. Types are tuples of words: the untrusted side reads this table and nothing of `guardpool.wasm`.

Source: the guard contract, "call_backend", "host_log" and "WASI, denied by default"; for WASI the witx files of
wasi_snapshot_preview1, with `sock_accept`, which was added to the snapshot later.
"""

from __future__ import annotations

PREVIEW1_MODULE = "wasi_snapshot_preview1"

FuncTypeTuple = tuple[tuple[str, ...], tuple[str, ...]]

_VALTYPE = {"i": "i32", "l": "i64"}


def _func(params: str, results: str = "i") -> FuncTypeTuple:
    return tuple(_VALTYPE[c] for c in params), tuple(_VALTYPE[c] for c in results)


ENV: dict[str, FuncTypeTuple] = {
    "call_backend": _func("iiiiii"),
    "host_log": _func("iii", ""),
}

PREVIEW1: dict[str, FuncTypeTuple] = {
    # arguments and environment
    "args_get": _func("ii"),
    "args_sizes_get": _func("ii"),
    "environ_get": _func("ii"),
    "environ_sizes_get": _func("ii"),
    # clocks
    "clock_res_get": _func("ii"),
    "clock_time_get": _func("ili"),
    # descriptors
    "fd_advise": _func("illi"),
    "fd_allocate": _func("ill"),
    "fd_close": _func("i"),
    "fd_datasync": _func("i"),
    "fd_fdstat_get": _func("ii"),
    "fd_fdstat_set_flags": _func("ii"),
    "fd_fdstat_set_rights": _func("ill"),
    "fd_filestat_get": _func("ii"),
    "fd_filestat_set_size": _func("il"),
    "fd_filestat_set_times": _func("illi"),
    "fd_pread": _func("iiili"),
    "fd_prestat_dir_name": _func("iii"),
    "fd_prestat_get": _func("ii"),
    "fd_pwrite": _func("iiili"),
    "fd_read": _func("iiii"),
    "fd_readdir": _func("iiili"),
    "fd_renumber": _func("ii"),
    "fd_seek": _func("ilii"),
    "fd_sync": _func("i"),
    "fd_tell": _func("ii"),
    "fd_write": _func("iiii"),
    # paths
    "path_create_directory": _func("iii"),
    "path_filestat_get": _func("iiiii"),
    "path_filestat_set_times": _func("iiiilli"),
    "path_link": _func("iiiiiii"),
    "path_open": _func("iiiiillii"),
    "path_readlink": _func("iiiiii"),
    "path_remove_directory": _func("iii"),
    "path_rename": _func("iiiiii"),
    "path_symlink": _func("iiiii"),
    "path_unlink_file": _func("iii"),
    # the rest
    "poll_oneoff": _func("iiii"),
    "proc_exit": _func("i", ""),
    "proc_raise": _func("i"),
    "random_get": _func("ii"),
    "sched_yield": _func(""),
    "sock_accept": _func("iii"),
    "sock_recv": _func("iiiiii"),
    "sock_send": _func("iiiii"),
    "sock_shutdown": _func("ii"),
}

_ENV_NOTES = {
    "call_backend": "asks the guard's backend",
    "host_log": "writes to the guard's log",
}
_PREVIEW1_NOTES = {
    "clock_res_get": "works",
    "clock_time_get": "works",
    "fd_read": "standard input is at its end",
    "fd_write": "standard output and error go to the guard's log",
    "poll_oneoff": "returns at once without waiting",
    "proc_exit": "ends the call; a code other than 0 also ends the instance",
    "proc_raise": "denied",
    "random_get": "works",
    "sched_yield": "does nothing",
}
# By the beginning of the name; the first prefix that fits counts.
_FAMILY_NOTES = (
    ("args_", "there are no arguments"),
    ("environ_", "the environment is empty"),
    ("path_", "denied: there are no files"),
    ("fd_prestat_", "denied: there are no files"),
    ("fd_", "denied, except what is true of standard streams"),
    ("sock_", "denied: there is no network"),
)


def note_on(module: str, name: str) -> str:
    """What `guardpool inspect` says about a call of this function, which must be one of the tables above."""
    if module == "env":
        return _ENV_NOTES[name]
    return _PREVIEW1_NOTES.get(name) or next(note for prefix, note in _FAMILY_NOTES if name.startswith(prefix))
