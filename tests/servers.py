"""Databases for the tests of examples: a PostgreSQL and a Redis of their own, in temporary folders, on free ports of
the loopback, ended by their ids when their `with` blocks end."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from support import environment, free_port, is_running, listens, output, process, wait_for


def _postgres_program(name: str) -> str:
    """The newest such program: Debian keeps those of the server outside of PATH."""
    found = shutil.which(name) or max(map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}")), default=None)
    assert found is not None, f"{name} is missing: apt-get install postgresql"
    return found


class Postgres:
    """A real PostgreSQL with one empty database: `url` names it. It refuses to run as root: then it is postgres's."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"postgresql://tester@127.0.0.1:{self.port}/postgres"
        self.folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._as = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        if self._as:
            shutil.chown(self.folder, "postgres", "postgres")
        self.data = self.folder / "data"
        options = ["--auth=trust", "--username=tester", "--no-sync", "--encoding=UTF8", "--locale=C"]
        self._run(_postgres_program("initdb"), "-D", str(self.data), *options)

    def _run(self, *command: str) -> None:
        done = subprocess.run([*self._as, *command], cwd=self.folder, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    def start(self) -> None:
        """Start it, and return when it answers."""
        settings = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        control = _postgres_program("pg_ctl")
        log = str(self.folder / "log")
        self._run(control, "start", "-w", "-t", "180", "-D", str(self.data), "-l", log, "-o", settings)

    def stop(self) -> None:
        """End it at once, with its clients' connections, by the id that it wrote down."""
        pid_file = self.data / "postmaster.pid"
        if pid_file.exists():
            pid = int(pid_file.read_text().splitlines()[0])
            os.kill(pid, signal.SIGINT)
            wait_for(lambda: not is_running(pid), what="the end of PostgreSQL")

    def __enter__(self) -> Postgres:
        self.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextlib.contextmanager
def redis(port: int | None = None) -> Iterator[str]:
    """A real Redis that keeps nothing: its address."""
    port = port or free_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with tempfile.TemporaryDirectory() as folder, process(command, cwd=folder, env=environment(False)) as child:
        wait_for(lambda: listens(port) or child.poll() is not None, what="Redis")
        assert child.poll() is None, output(child)
        yield f"redis://127.0.0.1:{port}/0"


def make_certificate(
    folder: Path, name: str = "localhost", passphrase: str = "", algorithm: str = "ec"
) -> tuple[str, str]:
    """The files of a new certificate for the loopback, which vouches for itself, and of its key."""
    certificate, key = str(folder / "certificate.pem"), str(folder / "key.pem")
    secret = ["-passout", f"pass:{passphrase}"] if passphrase else ["-noenc"]
    curve = ["-pkeyopt", "ec_paramgen_curve:P-256"] if algorithm == "ec" else []
    options = ["-newkey", algorithm, *curve, "-days", "2", "-subj", f"/CN={name}"]
    subprocess.run(["openssl", "req", "-x509", *options, *secret, "-keyout", key, "-out", certificate, "-addext",
                    "subjectAltName=DNS:localhost,IP:127.0.0.1"], check=True, capture_output=True)  # fmt: skip
    return certificate, key
