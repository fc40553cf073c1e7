"""The connection to a Ray cluster."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from toolkit.utils import processes
from toolkit.utils.errors import ToolkitError, describe_error

# Ray reads these at its import: send no usage statistics, and do not merge equal lines of the workers' output
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")

import ray

_CONNECT_TIMEOUT = 20  # seconds
_CONNECT = f"""
import sys, ray
try:
    ray.init(sys.argv[1], log_to_driver=False, logging_level={logging.ERROR})
except Exception as error:
    while error.__cause__:
        error = error.__cause__
    text = str(error).strip()
    sys.exit(text.splitlines()[-1] if "Traceback" in text else " ".join(text.split()))
"""
_OBJECT_STORE_BYTES = 100 << 20  # for the results of tasks, which are small


def check_cluster(address: str) -> None:
    """Connect to a cluster in another process: Ray itself tries for 15 minutes, and then ends the process.

    :raises ToolkitError: if no cluster answers
    """
    timeouts = {"RAY_NUM_REDIS_GET_RETRIES": "1", "RAY_py_gcs_connect_timeout_s": "5"}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _CONNECT, address],
            env=timeouts | os.environ,
            capture_output=True,
            text=True,
            timeout=_CONNECT_TIMEOUT,
            check=False,
        )
        if not result.returncode:
            return
        reason = (result.stderr.splitlines() or [f"Ray ended with status {result.returncode}"])[-1]
    except subprocess.TimeoutExpired:
        reason = f"nothing answers within {_CONNECT_TIMEOUT} seconds"
    hint = "start one with `ray start --head`, which prints the address, or test it with `ray status --address`"
    raise ToolkitError(f"no Ray cluster answers at '{address}': {reason}", hint)


@contextmanager
def connect(address: str | None) -> Iterator[None]:
    """Connect to Ray and disconnect afterwards, unless this process is connected already.

    :param address: of a cluster; ``None`` starts a Ray on this machine, which ends with the connection
    :raises ToolkitError: if Ray does not start
    """
    if ray.is_initialized():
        yield
        return
    settings: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address is None:
        settings |= {
            "num_cpus": processes.available_cores(),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    try:
        _init(address or "local", settings)
        yield
    finally:
        ray.shutdown()


def _init(address: str, settings: dict[str, Any]) -> None:
    try:
        with _preserve_sigterm_handler():
            ray.init(address, **settings)
    except Exception as error:  # Ray raises many types
        raise ToolkitError(f"Ray does not start: {describe_error(error)}") from error


@contextmanager
def _preserve_sigterm_handler() -> Iterator[None]:
    """Restore the handler of SIGTERM, which Ray replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
