"""The database of a study: connect to it, and report its errors without its password."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from toolkit.utils.errors import StorageError

if TYPE_CHECKING:
    import optuna
    from optuna.storages import RDBStorage

_HEARTBEAT_INTERVAL = 15  # seconds, while a trial runs
_GRACE_PERIOD = 60  # seconds without a heartbeat, after which a trial counts as dead
_MAX_RETRIES = 3  # of a trial whose process dies each time: the trial may kill it
_DEATHS = "deaths"  # attribute of a trial
_CONNECT_TIMEOUT = 10  # seconds
_CONNECT_ARGUMENTS: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": 60},  # seconds to wait for the lock that workers share
    "postgresql": {"connect_timeout": _CONNECT_TIMEOUT},
    "mysql": {"connect_timeout": _CONNECT_TIMEOUT},
    "mariadb": {"connect_timeout": _CONNECT_TIMEOUT},
}


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Silence Optuna's log of trials and its warnings about experimental features."""
    import optuna

    verbosity = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(verbosity)


def has_password(url: str) -> bool:
    """Return whether a URL contains a password."""
    return hide_password(url) != url


def hide_password(url: str) -> str:
    """Return a URL with ``***`` for its passwords."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "its value" if "@" in url else url
    rest = re.sub(r"^([^:/@]*):.*(?=@)", r"\1:***", rest)
    return scheme + separator + re.sub(r"(?i)(pass\w*=)[^&]*", r"\1***", rest)


@contextmanager
def open_storage(url: str) -> Iterator[RDBStorage]:
    """Connect to a database, and create Optuna's tables if it has none.

    A running trial sends a heartbeat every 15 seconds. After a minute without one, the next worker that asks for a
    trial runs it again.

    :raises StorageError: if the database does not answer within 10 seconds, or the URL's ``connect_timeout``
    """
    with storage_errors(url):
        storage = _connect(url)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _connect(url: str) -> RDBStorage:
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError

    safe_url = hide_password(url)
    if url.partition("?")[0].count("@") > 1:  # a part of a password would look like the host's name
        raise StorageError(f"storage: {safe_url} has more than one @", "write @ as %40 in a password")
    arguments = _CONNECT_ARGUMENTS.get(url.partition(":")[0].partition("+")[0], {})
    arguments = {key: value for key, value in arguments.items() if f"{key}=" not in url}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # about heartbeats
            return RDBStorage(
                url,
                engine_kwargs={"connect_args": arguments, "pool_pre_ping": True},
                heartbeat_interval=_HEARTBEAT_INTERVAL,
                grace_period=_GRACE_PERIOD,
                heartbeat_stale_trial_callback=_retry_trial,
            )
    except ArgumentError as error:
        hint = "write it as in postgresql://user@host/database"
        raise StorageError(f"storage: {safe_url} is not the URL of a supported database", hint) from error
    except ImportError as error:
        message = f"storage: {safe_url} needs a database driver that is not installed"
        raise StorageError(message, "install the driver") from error
    except RuntimeError as error:
        hint = "use another database, or upgrade this one with `optuna storage upgrade`"
        raise StorageError(f"storage: {safe_url} belongs to another version of Optuna", hint) from error


def _retry_trial(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Enqueue a trial again whose process has died, unless it dies each time.

    Optuna's own count would include stops by the user.
    """
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    trial.user_attrs[_DEATHS] = trial.user_attrs.get(_DEATHS, 0) + 1
    if trial.user_attrs[_DEATHS] <= _MAX_RETRIES:
        RetryHeartbeatStaleTrialCallback(None, inherit_intermediate_values=True)(study, trial)


@contextmanager
def storage_errors(url: str) -> Iterator[None]:
    """Raise the errors of a database as :class:`StorageError`.

    :raises StorageError: if the database fails
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        is_file = url.startswith("sqlite")
        hint = "check its permissions and the free space" if is_file else "check that its server is running"
        raise StorageError(f"storage: {hide_password(url)} cannot be used: {_get_reason(error)}", hint) from error


def _get_reason(error: BaseException) -> str:
    """Return the first line of the message of the database or its driver."""
    while not getattr(error, "orig", None) and error.__cause__:
        error = error.__cause__
    message = str(getattr(error, "orig", None) or error)
    return message.strip().partition("\n")[0]
