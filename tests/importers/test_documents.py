"""spec/checkpoints.md says of the rules what the program says."""

from __future__ import annotations

import re
from pathlib import Path

from trajfile.importers.kinds import _SUFFIXES
from trajfile.rules import CHECKPOINT_RULES

TEXT = (Path(__file__).parents[2] / "spec/checkpoints.md").read_text()


def test_the_table_of_rules_is_the_programs():
    assert dict(re.findall(r"^\| (CKPT-\d{3}) \| (.*) \|$", TEXT, re.M)) == {
        rule.id: rule.text for rule in CHECKPOINT_RULES.values()
    }


def test_every_suffix_is_named():
    assert all(f"`{suffix}`" in TEXT for suffix in _SUFFIXES)
