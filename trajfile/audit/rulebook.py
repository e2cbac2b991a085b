"""Which rules apply: those shipped, as a rule file or ``[tool.trajfile]`` changes them.

A rule file is TOML::

    select = ["*"]                # globs over rule ids; all by default
    ignore = ["dead-tensor"]
    fail_on = "warn"              # or "error", the default

    [rules.sharpness-limit]       # any field of a shipped rule, or a whole rule of your own
    above = 1.5
    severity = "error"
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

import msgspec

from trajfile.audit.facts import FACTS
from trajfile.audit.rules import Rule, check_rule, matches
from trajfile.errors import UsageError

FailOn = Literal["warn", "error"]

#: The ways in which an input cannot be examined.
FAILURES = ("damaged", "unsafe", "unreadable", "resources", "timeout", "died", "internal")


class Rulebook(msgspec.Struct, frozen=True):
    """The rules of an audit.

    Attributes:
        rules: Every known rule by its id, in the order of the shipped ones.
        active: The ids of those that apply.
        fail_on: The least severity that fails the audit.
    """

    rules: dict[str, Rule]
    active: list[str]
    fail_on: FailOn = "error"

    def applying(self) -> list[Rule]:
        """The rules that apply."""
        return [self.rules[name] for name in self.active]

    def metrics(self) -> list[str]:
        """The metrics that the applying rules look at, each once."""
        from trajfile.metrics import METRICS

        asked = {rule.metric for rule in self.applying() if rule.metric}
        everything = any("*" in name for name in asked)
        return [metric for metric in METRICS if everything or metric in asked]


class _RuleFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    select: tuple[str, ...] = ("*",)
    ignore: tuple[str, ...] = ()
    fail_on: FailOn = "error"
    rules: dict[str, dict[str, Any]] = {}


@cache
def shipped() -> dict[str, Rule]:
    """The rules that come with the package, by id."""
    text = files("trajfile.audit").joinpath("shipped.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)["rules"]
    return {name: _rule(name, table, "shipped.toml") for name, table in tables.items()}


def load_rulebook(path: Path | None = None) -> Rulebook:
    """The rules in force.

    Args:
        path: A rule file, or a ``pyproject.toml`` with a table ``[tool.trajfile.audit]``. None:
            the ``pyproject.toml`` of the current folder if it has one, else the shipped rules.

    Returns:
        The rules.

    Raises:
        UsageError: If the file cannot be read, is no TOML, or states something unknown.
    """
    given = path or Path("pyproject.toml")
    if path is None and not given.is_file():
        return compose(_RuleFile(), "the shipped rules")
    try:
        data: Mapping[str, Any] = tomllib.loads(given.read_text(encoding="utf-8"))
    except OSError as error:
        raise UsageError(f"the rule file {given} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"the rule file {given} is not TOML: {error}") from error
    if given.name == "pyproject.toml":
        data = data.get("tool", {}).get("trajfile", {}).get("audit", {})
    try:
        stated = msgspec.convert(data, _RuleFile)
    except msgspec.ValidationError as error:
        raise UsageError(f"the rule file {given}: {error}") from error
    return compose(stated, str(given))


def compose(stated: _RuleFile, where: str) -> Rulebook:
    """The shipped rules as a rule file changes them."""
    rules = dict(shipped())
    for name, changes in stated.rules.items():
        table = msgspec.to_builtins(rules[name]) if name in rules else {}
        rules[name] = _rule(name, table | changes, where)
    for glob in (*stated.select, *stated.ignore):
        if not any(matches(name, [glob]) for name in rules):
            raise UsageError(
                f"{where} selects or ignores {glob!r}, which is no rule; "
                "`trajfile audit --explain all` lists them"
            )
    active = [
        name
        for name, rule in rules.items()
        if rule.enabled and matches(name, stated.select) and not matches(name, stated.ignore)
    ]
    return Rulebook(rules, active, stated.fail_on)


def narrowed(book: Rulebook, select: list[str] | None, ignore: list[str] | None) -> Rulebook:
    """A rulebook of which only some rules apply.

    Args:
        book: The rulebook.
        select: Globs over ids; None keeps those that apply.
        ignore: Globs over ids that do not apply.

    Returns:
        The narrowed rulebook.

    Raises:
        UsageError: If a glob matches no rule.
    """
    for glob in (*(select or ()), *(ignore or ())):
        if not any(matches(name, [glob]) for name in book.rules):
            raise UsageError(f"{glob!r} is no rule; `trajfile audit --explain all` lists them")
    active = [
        name
        for name in (book.active if select is None else book.rules)
        if (select is None or matches(name, select)) and not matches(name, ignore or [])
    ]
    return Rulebook(book.rules, active, book.fail_on)


def _rule(name: str, table: Mapping[str, Any], where: str) -> Rule:
    try:
        rule = msgspec.convert({**table, "id": name}, Rule)
    except msgspec.ValidationError as error:
        raise UsageError(f"{where}, rule {name!r}: {error}") from error
    try:
        check_rule(rule)
    except UsageError as error:
        raise UsageError(f"{where}, {error}") from error
    _check_target(rule, where)
    return rule


def _check_target(rule: Rule, where: str) -> None:
    """Refuse a rule that could never trip because what it looks at does not exist."""
    from trajfile.metrics import METRICS

    if rule.metric is not None and rule.metric not in METRICS and rule.metric != "*":
        raise UsageError(
            f"{where}, rule {rule.id!r} looks at the metric {rule.metric!r}; there are "
            f"{', '.join(METRICS)}"
        )
    if rule.fact is not None and rule.fact not in FACTS:
        raise UsageError(
            f"{where}, rule {rule.id!r} looks at the fact {rule.fact!r}; there are "
            f"{', '.join(FACTS)}"
        )
    if rule.failure is not None and not any(matches(name, [rule.failure]) for name in FAILURES):
        raise UsageError(
            f"{where}, rule {rule.id!r} looks at the failure {rule.failure!r}; there are "
            f"{', '.join(FAILURES)}"
        )
