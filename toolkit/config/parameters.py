"""The parameters of a component as a config has them: checked once, and bound again for other environments."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any

from toolkit.config.registry import load_function
from toolkit.config.signatures import bind_arguments, read_signature
from toolkit.config.values import (
    PER_ENV,
    find_per_env_problems,
    has_per_env,
    list_code_values,
    locate_for_env,
    max_per_env_values,
    read_code_value,
    select_for_env,
)
from toolkit.config.yaml_document import get_value, walk
from toolkit.utils.errors import ComponentError, KeyPath, Problem

Bound = tuple[dict[str, Any], list[Problem]]


@dataclass(frozen=True)
class Parameters:
    """The parameters that a config gives to a component.

    :param owner: the component, whose signature they are checked against
    :param values: plain data by name
    :param path: where the config has them
    :param supplied: parameters that the toolkit passes, with where their value comes from
    :param registered: parameters that the config does not have to repeat
    :param defaults: environments that the toolkit passes where the config does not
    """

    owner: Callable[..., Any]
    values: Mapping[str, Any]
    path: KeyPath
    supplied: Mapping[str, str]
    registered: Mapping[str, Any] = field(default_factory=dict)
    defaults: Collection[str] = ()

    def bind(self, n_envs: int | None) -> Bound:
        """Check the parameters for all environments.

        :param n_envs: number of environments; ``None`` if they cannot have values of their own
        :return: the keyword arguments for the first environment, and every problem
        """
        if n_envs is None:
            return self._bind(self.values)
        problems = find_per_env_problems(self.values, self.path, n_envs)
        wrong = {self._get_name(problem) for problem in problems}
        names = self.values.keys() - wrong
        arguments, more_problems = self._bind_selected(names, 0)
        problems += [problem for problem in more_problems if self._get_name(problem) not in wrong]
        for index in range(1, max_per_env_values(self.values)):
            problems += self._check_other_env(index, [name for name in names if has_per_env(self.values[name])])
        return arguments, problems

    def bind_for_env(self, index: int, names: Collection[str]) -> Bound:
        """Bind some of the parameters for one environment, also in another process."""
        arguments, problems = self._bind_selected(names, index)
        return arguments, [problem for problem in problems if self._get_name(problem) in names]

    def list_names_per_env(self) -> set[str]:
        """Return the parameters that differ between environments."""
        return {name for name, value in self.values.items() if has_per_env(value)}

    def list_names_with_calls(self) -> set[str]:
        """Return the parameters for which a function is called; every process calls it itself."""
        return {
            name for name, value in self.values.items() if any(code.key == "call" for code in list_code_values(value))
        }

    def find_call_results(self, arguments: Mapping[str, Any]) -> list[Any]:
        """Return what calls returned, at any depth of the arguments."""
        results = []
        for path, value in walk(dict(self.values)):
            code = read_code_value(value, True)
            if code and code.key == "call":
                with suppress(LookupError, TypeError):  # the constructor's type has another structure
                    results.append(get_value(arguments, tuple(takewhile(lambda key: key != PER_ENV, path))))
        return results

    def _bind_selected(self, names: Collection[str], index: int) -> Bound:
        selected = {name: select_for_env(value, index) for name, value in self.values.items() if name in names}
        arguments, problems = self._bind(selected)
        return arguments, [self._locate(problem, index) for problem in problems]

    def _locate(self, problem: Problem, index: int) -> Problem:
        """Return a problem of a value that one environment gets, with its place in the config."""
        name, path = self._get_name(problem), problem.path[len(self.path) :]
        signature = read_signature(self.owner)
        if name in self.supplied or not (signature.accepts_others or name in signature.parameters):
            return problem  # of the name
        return replace(problem, path=(*self.path, *locate_for_env(dict(self.values), path, index)))

    def _bind(self, values: Mapping[str, Any]) -> Bound:
        params = {**self.registered, **values}
        arguments, problems = bind_arguments(self.owner, params, self.path, self.supplied, self.defaults)
        return {name: arguments[name] for name in values if name in arguments}, problems

    def _check_other_env(self, index: int, names: Collection[str]) -> list[Problem]:
        """Check the parameters of another environment than the first; what they call is called when that is built."""
        selected = {name: select_for_env(self.values[name], index) for name in names}
        called = {name for name, value in selected.items() if list_code_values(value)}
        problems = self.bind_for_env(index, [name for name in names if name not in called])[1]
        for path, value in walk({name: selected[name] for name in called}):
            if code := read_code_value(value, True):
                try:
                    load_function(code.reference)
                except ComponentError as error:
                    problem = Problem((*self.path, *path, code.key), error.message, error.hint)
                    problems.append(self._locate(problem, index))
        return problems

    def _get_name(self, problem: Problem) -> str | int:
        return problem.path[len(self.path)]
