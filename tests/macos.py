"""Our command line without what Linux has and macOS lacks: `python macos.py MODULE:APP [options]`. So are its workers,
which are the same command."""

from __future__ import annotations

import builtins
import mmap
import os
import resource
import select
import signal
import socket
import warnings
from typing import Any

warnings.filterwarnings("ignore", message="(?s).*Eventlet is deprecated")
from eventlet import hubs, patcher  # noqa: E402

poll = patcher.original("select").poll
PREFIXES = {
    select: ("epoll", "EPOLL", "POLLRDHUP"),
    os: (
        "memfd_create", "MFD_", "sched_getaffinity", "sched_setaffinity", "process_cpu_count", "posix_fadvise",
        "POSIX_FADV_", "posix_fallocate", "pipe2", "eventfd", "EFD_", "pidfd_open", "P_PIDFD", "splice", "SPLICE_",
        "copy_file_range", "getrandom", "GRND_", "O_TMPFILE", "O_PATH", "O_DIRECT", "O_NOATIME", "setxattr", "getxattr",
        "listxattr", "removexattr", "setns", "unshare",
    ),
    socket: (
        "SOCK_NONBLOCK", "SOCK_CLOEXEC", "SO_DOMAIN", "SO_PROTOCOL", "SO_PEERCRED", "SO_PASSCRED", "SO_MARK",
        "SO_PRIORITY", "SO_BINDTODEVICE", "SO_INCOMING_CPU", "TCP_QUICKACK", "TCP_DEFER_ACCEPT", "TCP_CORK", "TCP_INFO",
        "TCP_USER_TIMEOUT", "TCP_KEEPIDLE", "TCP_LINGER2", "TCP_SYNCNT", "TCP_WINDOW_CLAMP", "TCP_CONGESTION",
        "MSG_CMSG_CLOEXEC", "MSG_ERRQUEUE", "MSG_MORE", "MSG_CONFIRM", "MSG_FASTOPEN", "AF_NETLINK", "AF_PACKET",
        "AF_ALG", "AF_VSOCK",
    ),
    signal: ("SIGPOLL", "SIGPWR", "SIGRT", "SIGSTKFLT", "SIGCLD", "sigtimedwait", "sigwaitinfo"),
    resource: ("prlimit",),
    mmap: ("MAP_POPULATE", "MAP_NORESERVE", "MAP_HUGETLB"),
}  # fmt: skip


class Poll:
    """What `select.poll` gives: the end of what is registered without events is told nobody (xnu's sys_generic.c)."""

    def __init__(self) -> None:
        self._poll = poll()

    def register(self, descriptor: Any, events: int = select.POLLIN | select.POLLPRI | select.POLLOUT) -> None:
        if events:
            self._poll.register(descriptor, events)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._poll, name)


def take_away() -> None:
    """Take away all of it, from what eventlet has of the modules too."""
    for module, prefixes in PREFIXES.items():
        for each in (module, patcher.original(module.__name__)):
            for name in [name for name in vars(each) if name.startswith(prefixes)]:
                delattr(each, name)
            if module is select:
                each.PIPE_BUF, each.poll = 512, Poll  # type: ignore[attr-defined]


def take_away_files(module: Any, name: str) -> None:
    """Have a function of files find nothing below /proc."""
    function = getattr(module, name)

    def without_proc(path: Any, *arguments: Any, **options: Any) -> Any:
        if not isinstance(path, int) and os.fsdecode(path).startswith("/proc/"):
            raise FileNotFoundError(path)
        return function(path, *arguments, **options)

    setattr(module, name, without_proc)


def take_away_abstract_addresses(name: str) -> None:
    """Have a method of sockets take no address that begins with NUL (unix(7))."""
    method = getattr(socket.socket, name)

    def without_abstract(own: socket.socket, address: Any) -> Any:
        if isinstance(address, (str, bytes)) and address[:1] in ("\0", b"\0"):
            raise FileNotFoundError(address)
        return method(own, address)

    setattr(socket.socket, name, without_abstract)


take_away()
for owner, opening in ((builtins, "open"), (os, "open"), (os, "stat"), (os, "listdir"), (os, "readlink")):
    take_away_files(owner, opening)
for connecting in ("bind", "connect"):
    take_away_abstract_addresses(connecting)

if __name__ == "__main__":
    import brubeck_lite

    assert hubs.get_hub().__module__ == "eventlet.hubs.poll"
    brubeck_lite.main()
