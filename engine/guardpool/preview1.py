"""Every function of WASI preview 1, with its type, as plain data.

A guard may import any of them from `wasi_snapshot_preview1`; the loader compares their types with these, and the worker
links each of them. Pointers, sizes, descriptors, flags and the errno that comes back are `i32`; file sizes, offsets,
times, rights and directory cookies are `i64`.

Source: the wasi_snapshot_preview1 witx files, with `sock_accept`, which was added to the snapshot later.
"""

from __future__ import annotations

MODULE = "wasi_snapshot_preview1"

FuncTypeTuple = tuple[tuple[str, ...], tuple[str, ...]]

_VALTYPE = {"i": "i32", "l": "i64"}


def _func(params: str, results: str = "i") -> FuncTypeTuple:
    return tuple(_VALTYPE[c] for c in params), tuple(_VALTYPE[c] for c in results)


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
