"""A batch: isolated inputs, a ledger that survives, a baseline, no input counted twice."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace

import msgspec
import pytest

from tests.audit.runs import healthy, record, wide
from tests.audit.stand_ins import Here, task
from trajfile.audit import (
    Ledger,
    Outcome,
    Settings,
    Violation,
    audit,
    crew_for,
    load_baseline,
    load_rulebook,
    run_batch,
    save_baseline,
    sifting,
)
from trajfile.audit.drive import outcomes
from trajfile.audit.examine import Divided, conclude, examine, examine_part
from trajfile.audit.inputs import inputs
from trajfile.audit.outcome import settings_key
from trajfile.audit.pool import Pool, place
from trajfile.audit.rulebook import compose, shipped
from trajfile.audit.sifting import Seen, in_order
from trajfile.errors import ResourceError, UsageError


@pytest.fixture(scope="module")
def settings():
    from trajfile.audit.rulebook import _RuleFile

    return Settings(compose(_RuleFile(), "the shipped rules"), memory=2**28)


@pytest.mark.parametrize("scheduler", [None, pytest.param("local", marks=pytest.mark.slow)])
def test_an_input_that_ruins_its_worker_costs_nothing_else(scheduler, settings, tmp_path):
    if scheduler:
        pytest.importorskip("distributed")
    good = str(healthy(tmp_path / "good.h5"))
    once = str(tmp_path / "killed once.h5")
    due = {
        good: "ok",
        "kills": "died",
        "grows": "resources",
        "absent.h5": "unreadable",
        once: "ok",  # its process was killed, perhaps because of another
        "plain": "ok",
    }
    with crew_for(settings, 2, scheduler) as crew:
        found = list(outcomes(due, settings, crew, task=task))
    due |= {"sleeps": "timeout", "plain again": "ok"}
    with crew_for(settings, 2, scheduler, max_time=5) as crew:
        found += outcomes(["sleeps", "plain again"], settings, crew, task=task)
    assert sorted(o.path for o in found) == sorted(due)
    assert {o.path: o.status for o in found} == due
    assert all(o.worst == "error" for o in found if o.status != "ok")


def test_a_huge_run_is_divided_and_comes_to_the_same_for_any_number_of_workers(tmp_path):
    path = str(wide(tmp_path / "wide.h5"))
    whole = Settings(load_rulebook(), memory=2**23)
    divided = msgspec.structs.replace(whole, divide_above=0, cache=True)
    found = []
    for crew in (Here(divided), Pool(divided, 2)):
        with crew:
            found += outcomes([path], divided, crew)
    left = examine(path, divided)
    assert isinstance(left, Divided)
    assert left.parts > 2
    one, two = (msgspec.structs.replace(o, seconds=0.0) for o in found)
    assert msgspec.json.encode(one) == msgspec.json.encode(two)
    alone = examine(path, whole)
    assert one.values == pytest.approx(alone.values, rel=1e-9)
    assert (one.verdict, one.bytes_read) == (alone.verdict, alone.bytes_read)


def test_a_part_that_fails_fails_its_run(tmp_path):
    path = wide(tmp_path / "wide.h5")
    divided = Settings(load_rulebook(), memory=2**23, divide_above=0)
    left = examine(str(path), divided)
    assert isinstance(left, Divided)
    part = examine_part(str(path), left, 0, divided)
    again = examine_part(str(path), replace(left, identity="other"), 1, divided)
    assert again.status == "unreadable"
    assert conclude(str(path), left, part, again, divided) is again


def test_processes_hold_places_of_their_own(tmp_path):
    assert [place(tmp_path, 3) for _ in range(4)] == [0, 1, 2, 0]


def run_plain(names, settings, ledger, seen, *, stop=None):
    def examiner(drawn):
        for number, path in enumerate(drawn):
            if number == stop:
                raise KeyboardInterrupt
            seen.append(path)
            yield examine(path, settings)

    return run_batch(names, examiner, settings, ledger)


def test_an_interrupted_batch_goes_on_where_it_was(settings, tmp_path):
    names = [str(healthy(tmp_path / f"{n}.h5")) for n in range(5)]
    key, path, seen = settings_key(settings), tmp_path / "state" / "ledger", []
    with Ledger(path, key, resume=False) as ledger, pytest.raises(KeyboardInterrupt):
        run_plain(names, settings, ledger, seen, stop=3)
    (tmp_path / "1.h5").unlink()
    record(tmp_path / "1.h5", steps=[0, 1, 2])
    again = []
    with Ledger(path, key, resume=True) as ledger:
        summary = run_plain(names, settings, ledger, again)
        assert [o.path for o in ledger.worst_first()].count(names[1]) == 1
    assert (seen, again) == (names[:3], [names[1], *names[3:]])
    assert (summary.inputs, summary.reused) == (5, 2)


def test_other_settings_start_anew(settings, tmp_path):
    path = tmp_path / "ledger"
    with Ledger(path, "one", resume=False) as ledger:
        ledger.add(Outcome("x", "ok"))
    with Ledger(path, "one", resume=True) as ledger:
        assert len(ledger) == 1
    with Ledger(path, "two", resume=True) as ledger:
        assert len(ledger) == 0
    with Ledger(path, "two", resume=False) as ledger:
        assert len(ledger) == 0


def test_a_file_that_is_no_ledger_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("mine")
    other = tmp_path / "other.sqlite"
    with sqlite3.connect(other) as base:
        base.execute("CREATE TABLE mine (x)")
    before = other.read_bytes()
    for name in (path, other):
        with pytest.raises(UsageError, match="not a ledger"):
            Ledger(name, "key", resume=True)
    assert (path.read_text(), other.read_bytes()) == ("mine", before)
    with pytest.raises(UsageError, match="cannot be written"):
        Ledger(tmp_path, "key", resume=True)


def test_a_ledger_has_one_audit_at_a_time(tmp_path):
    first = Ledger(tmp_path / "ledger", "", resume=False)
    with pytest.raises(ResourceError, match="another audit"):
        Ledger(tmp_path / "ledger", "", resume=True)
    first.close()


def test_a_ledger_outlives_a_kill(tmp_path):
    script = (
        "from pathlib import Path\n"
        "from trajfile.audit import Ledger, Outcome\n"
        f"ledger = Ledger(Path({str(tmp_path / 'ledger')!r}), 'key', resume=False)\n"
        "for number in range(10**9):\n"
        "    ledger.add(Outcome(str(number), 'ok'))\n"
        "    print(number, flush=True)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        last = [int(process.stdout.readline()) for _ in range(500)][-1]
        process.kill()
    with Ledger(tmp_path / "ledger", "key", resume=True) as ledger:
        found = [outcome.path for outcome in ledger.worst_first()]
    assert len(found) > last
    assert found == [str(number) for number in range(len(found))]


@pytest.mark.parametrize("most", [3, 5_000])
def test_names_are_sifted_in_bounded_memory(most, monkeypatch):
    monkeypatch.setattr(sifting, "IN_MEMORY", most)
    names = [f"{number * 7919 % 1000}\udcff" for number in range(1000)] + ["é", "z", "é", ""]
    assert list(in_order(names)) == sorted(names, key=os.fsencode)
    seen = Seen()
    assert [name for name in [*names, *names] if seen.is_new(name)] == list(dict.fromkeys(names))
    seen.close()


def test_the_worst_come_first(tmp_path):
    def outcome(name, *severities, known=False):
        found = [Violation(f"r{n}", s, "m", "r", known=known) for n, s in enumerate(severities)]
        return Outcome(name, "ok", violations=found)

    with Ledger(tmp_path / "ledger", "", resume=False) as ledger:
        for entry in (
            outcome("clean"),
            outcome("one warning", "warn"),
            outcome("an error", "error"),
            outcome("two errors", "error", "error", "warn"),
            outcome("known", "error", known=True),
        ):
            ledger.add(entry)
        order = [o.path for o in ledger.worst_first()]
        assert order == ["two errors", "an error", "one warning", "clean", "known"]
        summary = ledger.summary("error")
        assert (summary.failing, summary.clean, summary.errors, summary.known) == (2, 2, 3, 1)
        assert ledger.summary("warn").failing == 3


def test_fail_fast_stops_at_the_first_that_fails(settings, tmp_path):
    names = [str(healthy(tmp_path / "a.h5")), "absent.h5", "never.h5"]
    seen = []
    with Ledger(tmp_path / "ledger", "", resume=False) as ledger:

        def examiner(drawn):
            for path in drawn:
                seen.append(path)
                yield examine(path, settings)

        summary = run_batch(names, examiner, settings, ledger, fail_fast=True)
    assert seen == names[:2]
    assert (summary.inputs, summary.failing) == (2, 1)


def test_what_a_baseline_accepts_no_longer_fails(settings, tmp_path):
    path = str(record(tmp_path / "run.h5", frozen=("fc2.bias",), gradient={"stage": "clipped"}))
    first = examine(path, settings)
    assert {v.rule for v in first.violations} == {"dead-tensor", "gradient-stage"}
    save_baseline(tmp_path / "base.json", [first])
    accepted = load_baseline(tmp_path / "base.json")
    second = examine(path, Settings(settings.rules, baseline=accepted))
    assert [v.known for v in second.violations] == [True, True]
    assert second.worst is None
    (tmp_path / "run.h5").unlink()
    record(tmp_path / "run.h5", frozen=("fc2.bias", "fc1.weight"))
    third = examine(path, Settings(settings.rules, baseline=accepted))
    assert {v.fingerprint: v.known for v in third.violations} == {
        "dead-tensor:fc2.bias": True,
        "dead-tensor:fc1.weight": False,
    }
    (tmp_path / "base.json").write_text(json.dumps({"schema": "other", "inputs": {}}))
    with pytest.raises(UsageError, match="not a baseline"):
        load_baseline(tmp_path / "base.json")


def test_inputs_are_found_once_and_in_order(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b.h5", "a.hdf5", "deep/c.h5", "deep/.hidden/d.h5", "notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "deep" / "z.zarr").mkdir()
    (tmp_path / "deep" / "z.zarr" / "inner.h5").write_text("part of it")
    (tmp_path / "deep" / "link").symlink_to(tmp_path)
    (tmp_path / "ckpts").mkdir()
    (tmp_path / "ckpts" / "model_10.pt").write_text("x")
    for name in ("run/step-2", "run/step-10", "run/final", "final"):
        (tmp_path / "sharded" / name).mkdir(parents=True)
        (tmp_path / "sharded" / name / ".metadata").write_text("x")
    (tmp_path / "orbax" / "100").mkdir(parents=True)
    (tmp_path / "orbax" / "100" / "_CHECKPOINT_METADATA").write_text("{}")
    (tmp_path / "list.txt").write_text("# two\n\nb.h5\nabsent.h5\n")
    recorded = ["a.hdf5", "b.h5", "ckpts", "deep/c.h5", "deep/z.zarr"]
    assert list(inputs(["."])) == [*recorded, "orbax", "sharded/final", "sharded/run"]
    assert list(inputs(["*.h5", "@list.txt", "b.h5"])) == ["b.h5", "absent.h5"]
    assert list(inputs(["-"], stdin=["b.h5\n", "\n"])) == ["b.h5"]
    with pytest.raises(UsageError, match="matches nothing"):
        list(inputs(["*.nope"]))
    with pytest.raises(UsageError, match="cannot be read"):
        list(inputs(["@absent.txt"]))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("nonsense = 1", "unknown field"),
        ("[rules.x]\nseverity = 'warn'", "missing required field"),
        ("[rules.jumps]\nabove = 'high'", "Expected `float"),
        ("[rules.jumps]\nseries = 'norms.params'", "exactly one of"),
        ("[rules.jumps]\nsummary = 'entropy.x'", "metric 'entropy'"),
        ("[rules.missing-steps]\nfact = 'moon'", "fact 'moon'"),
        ("[rules.jumps]\nmessage = '{value.__class__}'", "may name only"),
        ("[rules.jumps]\nmessage = '{other}'", "cannot be filled in"),
        ("[rules.imbalance-growing]\nwindow = 'often'", "window 'often'"),
        ("select = ['jmups']", "'jmups', which is no rule"),
        ("= 3", "not TOML"),
    ],
)
def test_a_rule_file_that_is_wrong_says_where(tmp_path, text, why):
    path = tmp_path / "rules.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"rules\.toml") as raised:
        load_rulebook(path)
    assert why in str(raised.value)


def test_a_rule_file_changes_and_adds_rules(tmp_path, monkeypatch):
    text = """
[tool.trajfile.audit]
ignore = ["dead-*"]
fail_on = "warn"
[tool.trajfile.audit.rules.jumps]
above = 5
severity = "error"
[tool.trajfile.audit.rules.far-from-start]
severity = "info"
summary = "geometry.distance_last"
above = 1.0
message = "it went {value} far"
why = "for the test"
remedy = "none"
"""
    (tmp_path / "pyproject.toml").write_text(text)
    monkeypatch.chdir(tmp_path)
    book = load_rulebook()
    assert book.fail_on == "warn"
    assert (book.rules["jumps"].above, book.rules["jumps"].severity) == (5, "error")
    assert book.rules["jumps"].why == shipped()["jumps"].why
    assert "dead-tensor" not in book.active
    outcome = examine(str(healthy(tmp_path / "run.h5")), Settings(book))
    assert [v.rule for v in outcome.violations] == ["far-from-start"]
    assert outcome.violations[0].message.startswith("it went ")


def test_the_function_is_the_whole_of_it(tmp_path):
    found = audit([healthy(tmp_path / "a.h5"), tmp_path / "absent.h5"], workers=2)
    assert [o.status for o in found] == ["unreadable", "ok"]
