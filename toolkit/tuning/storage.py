"""The database that keeps a study: opened, and what goes wrong with it said without its password."""

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

_HEARTBEAT = 15  # seconds between two signs of life of a trial that runs
_GRACE = 60  # seconds without one, after which its process is taken for dead
_MOST_RETRIES = 3  # of a trial whose process dies each time: it may be what kills it
_DEATHS = "deaths"
_WAIT = 10  # seconds for a connection
_CONNECTING: dict[str, dict[str, Any]] = {
    "sqlite": {"timeout": 60},  # for its lock, which workers take turns with
    "postgresql": {"connect_timeout": _WAIT},
    "mysql": {"connect_timeout": _WAIT},
    "mariadb": {"connect_timeout": _WAIT},
}


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Optuna from saying what is experimental in it, and what is said here of trials."""
    import optuna

    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)


def has_password(url: str) -> bool:
    """Say whether a URL tells a password."""
    return shown(url) != url


def shown(url: str) -> str:
    """Return a URL without the passwords in it."""
    scheme, separator, rest = url.partition("://")
    if not separator:
        return "what it says" if "@" in url else url
    rest = re.sub(r"^([^:/@]*):.*(?=@)", r"\1:***", rest)
    return scheme + separator + re.sub(r"(?i)(pass\w*=)[^&]*", r"\1***", rest)


@contextmanager
def opened_storage(url: str) -> Iterator[RDBStorage]:
    """Connect to a database, and make Optuna's tables in it if it has none.

    A trial that runs says so every 15 seconds; one that has not for a minute is taken up again by whoever asks for
    the next trial.

    :raises StorageError: if it cannot be reached within 10 seconds, or what the URL gives as ``connect_timeout``
    """
    with reached(url):
        storage = _connected(url)
        try:
            yield storage
        finally:
            storage.remove_session()
            storage.engine.dispose()


def _connected(url: str) -> RDBStorage:
    from optuna.exceptions import ExperimentalWarning
    from optuna.storages import RDBStorage
    from sqlalchemy.exc import ArgumentError

    place = shown(url)
    if url.partition("?")[0].count("@") > 1:  # a part of a password would be taken for the host's name
        raise StorageError(f"storage: {place} has more than one @", "write it as %40 in a password")
    connecting = _CONNECTING.get(url.partition(":")[0].partition("+")[0], {})
    connecting = {key: value for key, value in connecting.items() if f"{key}=" not in url}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ExperimentalWarning)  # of heartbeats
            return RDBStorage(
                url,
                engine_kwargs={"connect_args": connecting, "pool_pre_ping": True},
                heartbeat_interval=_HEARTBEAT,
                grace_period=_GRACE,
                heartbeat_stale_trial_callback=_run_again,
            )
    except ArgumentError as error:
        hint = "write it as in postgresql://user@host/database"
        raise StorageError(f"storage: {place} is not the URL of a database that there is a way to", hint) from error
    except ImportError as error:
        raise StorageError(f"storage: {place} needs a driver that is not installed", "install it") from error
    except RuntimeError as error:
        hint = "name another database, or bring this one up to date with `optuna storage upgrade`"
        raise StorageError(f"storage: {place} is of another version of Optuna", hint) from error


def _run_again(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Have a trial run again whose process has died, unless that happens each time.

    Optuna's own count would be one of stops as well, which come from the user.
    """
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    trial.user_attrs[_DEATHS] = trial.user_attrs.get(_DEATHS, 0) + 1
    if trial.user_attrs[_DEATHS] <= _MOST_RETRIES:
        RetryHeartbeatStaleTrialCallback(None, inherit_intermediate_values=True)(study, trial)


@contextmanager
def reached(url: str) -> Iterator[None]:
    """Say what a database has done wrong.

    :raises StorageError: then
    """
    from optuna.exceptions import StorageInternalError
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        hint = "is there room, and may it be written to?" if url.startswith("sqlite") else "is it running?"
        raise StorageError(f"storage: {shown(url)} cannot be used: {_reason(error)}", hint) from error


def _reason(error: BaseException) -> str:
    """Return the first line of what the database or its driver has said."""
    while not getattr(error, "orig", None) and error.__cause__:
        error = error.__cause__
    said = str(getattr(error, "orig", None) or error)
    return said.strip().partition("\n")[0]
