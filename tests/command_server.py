"""Start `toolkit` in its own process without its imports: a server that has imported everything forks it.

Most of what a short command costs are the imports of torch and SB3. The server pays for them once in a test session.
Each command is a clean copy: the server has started no thread, no process and no environment.
"""

from __future__ import annotations

import atexit
import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

_MAX_REQUEST = 1 << 20  # bytes


class Command:
    """A running command with the methods of `subprocess.Popen` that the tests use; its output is text.

    :param session: whether the process leads a session
    :param terminal: descriptor of a terminal that becomes the session's, and gets the output
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: dict[str, str],
        *,
        session: bool = False,
        terminal: int | None = None,
    ) -> None:
        self.args = [*arguments]
        self.returncode: int | None = None
        request: dict[str, Any] = {"arguments": self.args, "environment": environment, "cwd": os.getcwd()}
        request |= {"session": session, "has_terminal": terminal is not None}
        (out, out_end), (err, err_end), (self._status, status_end) = os.pipe(), os.pipe(), os.pipe()
        outputs = [out_end, err_end] if terminal is None else [terminal, terminal]
        socket.send_fds(_server(), [json.dumps(request).encode()], [*outputs, status_end])
        for end in (out_end, err_end, status_end):
            os.close(end)
        self.stdout, self.stderr = os.fdopen(out), os.fdopen(err)
        if terminal is not None:
            self._close()
        self.pid = int(os.read(self._status, 32))

    def __enter__(self) -> Command:
        return self

    def __exit__(self, *error: object) -> None:
        self.wait()
        self._close()

    def _close(self) -> None:
        self.stdout.close()
        self.stderr.close()

    def poll(self) -> int | None:
        return self._poll(0.0)

    def _poll(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._status], [], [], timeout)[0]:
            self.returncode = int(os.read(self._status, 32))
            os.close(self._status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        returncode = self._poll(timeout)
        if returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return returncode

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """Read all output, and wait for the end."""
        deadline = None if timeout is None else time.monotonic() + timeout
        output = {stream.fileno(): b"" for stream in (self.stdout, self.stderr) if not stream.closed}
        order, open_streams = [*output], {*output}
        while open_streams:
            remaining = None if deadline is None else max(0.0, deadline - time.monotonic())
            ready, _, _ = select.select([*open_streams], [], [], remaining)
            if not ready:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            for stream in ready:
                chunk = os.read(stream, 65536)
                output[stream] += chunk
                if not chunk:
                    open_streams.discard(stream)
        self.wait(None if deadline is None else max(0.0, deadline - time.monotonic()))
        self._close()
        texts = [output[stream].decode() for stream in order]
        return (texts[0], texts[-1]) if len(texts) == 2 else ("", "")

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@cache
def _server() -> socket.socket:
    """Start the server, once; it ends when this process closes its end of the socket."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    process = subprocess.Popen(
        [sys.executable, __file__, str(theirs.fileno())],
        pass_fds=[theirs.fileno()],
        stdin=subprocess.DEVNULL,
        env=environment,
        cwd=Path(__file__).parent,
    )
    theirs.close()
    atexit.register(_stop_server, ours, process)
    return ours


def _stop_server(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    connection.close()
    process.wait()


def serve(requests: socket.socket) -> None:
    """Fork a command for each request, until nobody is there to send one."""
    import toolkit.cli.app
    import toolkit.evaluation.preload  # noqa: F401 - to have it imported
    from toolkit import RunConfig
    from toolkit.config.load import resolve_config

    env = {"id": "CartPole-v1", "wrappers": ["terminal_reward_clip"]}
    criterion = {"name": "success", "params": {"threshold": 1}}
    parts = {
        "name": "any",
        "timesteps": 1,
        "env": env,
        "algorithm": "double_dqn",
        "callbacks": [criterion, "progress"],
    }
    resolve_config(RunConfig.model_validate(parts))  # imports common components

    while True:
        message, fds, *_ = socket.recv_fds(requests, _MAX_REQUEST, 3)
        if not message:
            with suppress(ChildProcessError):
                while os.waitpid(-1, 0):
                    pass
            return
        if os.fork() == 0:
            requests.close()
            _attend(json.loads(message), *fds)
            return
        for fd in fds:
            os.close(fd)
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass


def _attend(request: dict[str, Any], out: int, err: int, status: int) -> None:
    """Run a command in its own process; tell its number, and how it has ended."""
    pid = os.fork()
    if pid == 0:
        os.close(status)
        _run(request, out, err)
        return
    os.close(out)
    os.close(err)
    os.write(status, str(pid).encode().ljust(32))
    _, state = os.waitpid(pid, 0)
    with suppress(BrokenPipeError):  # the test has ended
        os.write(status, str(os.waitstatus_to_exitcode(state)).encode().ljust(32))
    os._exit(0)


def _run(request: dict[str, Any], out: int, err: int) -> None:
    """Become the command; the caller returns up to the end of Python, as a program does."""
    if request["session"] or request["has_terminal"]:
        os.setsid()
    if request["has_terminal"]:
        fcntl.ioctl(out, termios.TIOCSCTTY, 0)
        os.dup2(out, 0)
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0:1] = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    for fd, end in ((1, out), (2, err)):
        os.dup2(end, fd)
        os.close(end)
    sys.argv = ["toolkit", *request["arguments"]]

    from toolkit.__main__ import main

    main()


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
