"""The rules by their stable ids, one line each.

The rules of the format, whose reasons are in spec/format.md. CORE: what a trajectory is. STR:
streams and their tensors. DT: dtypes. COM: commits. SUM: checksums. H5 and ZR: one container
alone. USE rules are no rules of the format but remarks on what an analysis will miss. CKPT rules
are of folders of checkpoints that other programs saved (spec/checkpoints.md).
"""

from __future__ import annotations

from dataclasses import dataclass

from trajfile.errors import FormatError
from trajfile.report import Finding, Severity, Value


@dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        id: Its stable id.
        severity: How bad it is to break it.
        text: What holds in a valid file.
    """

    id: str
    severity: Severity
    text: str


_ERRORS = {
    "CORE-001": "There is a file or folder at the path.",
    "CORE-002": "It is an HDF5 file or a Zarr v3 group.",
    "CORE-003": "Its root attribute 'format' is 'trajfile'.",
    "CORE-004": "Its major format version is one this program reads.",
    "CORE-005": "It requires no feature this program does not know.",
    "CORE-006": "It is as long as it says, and its container can be opened.",
    "CORE-007": "Every array has the dtype, rank and layout of the format.",
    "CORE-008": "No soft, external or symbolic link; nothing is linked twice.",
    "CORE-009": "No filter or codec but those of the format.",
    "CORE-010": "Every part is a regular file.",
    "CORE-011": "No part is larger than the format's limits.",
    "CORE-012": "Its creation was finished.",
    "CORE-013": "The manifest is JSON Lines of the manifest's shape (manifest.schema.json).",
    "CORE-014": "What is stated of the optimizer has the stated types.",
    "CORE-015": "What is stated of the gradients has the stated types and words.",
    "STR-001": "Stream names are those of the format, each once.",
    "STR-002": "Scalar names are unique.",
    "STR-003": "Names are printable text of 1 to 1024 characters.",
    "STR-004": "Tensor names are unique within a stream.",
    "STR-005": "Shapes, first rows and column counts are possible.",
    "STR-006": "A lane's tensors follow one another without holes.",
    "STR-007": "A tensor never joins before one that lies to its left in the lane.",
    "STR-008": "Steps increase within a stream; samples of a step count up from 0.",
    "STR-009": "Other streams hold only tensors of params; gradients and updates in their shapes.",
    "DT-001": "Dtypes are those of the dtype table.",
    "COM-001": "Commit records match their checksums, except for those left by a kill at the end.",
    "COM-002": "What a commit record counts is there, and later records never count less.",
    "COM-003": "Commits are numbered from 0 without gaps, and their steps never decrease.",
    "COM-004": "Each row's step is the step of a commit.",
    "COM-005": "Steps of the scalars increase, each the step of a commit.",
    "SUM-001": "Manifest, keys and scalars match the checksums in the last commit record.",
    "SUM-002": "Every committed chunk exists.",
    "SUM-003": "Every committed chunk matches its checksum and can be decoded.",
    "SUM-004": "The root attributes are those that the manifest repeats.",
    "H5-001": "No external or virtual storage.",
}
_REMARKS = {
    "USE-001": "Something has been recorded.",
    "USE-002": "Recorded gradients state their stage (raw, scaled, clipped) and source.",
    "USE-003": "The learning rate is known at some step.",
    "USE-004": "Learning rates are finite and not negative.",
    "USE-005": "Scalars are finite.",
    "USE-006": "Tensors are finite.",
    "USE-007": "Groups name tensors of params that joined by now.",
}

#: Every rule by its id.
RULES: dict[str, Rule] = {
    **{id: Rule(id, "error", text) for id, text in _ERRORS.items()},
    **{id: Rule(id, "warn", text) for id, text in _REMARKS.items()},
}

_CHECKPOINT_ERRORS = {
    "CKPT-001": "Each checkpoint says its step, in its name or inside; all count in the same unit.",
    "CKPT-002": "No two checkpoints are of the same step.",
    "CKPT-003": "All checkpoints of a folder are of one kind.",
    "CKPT-004": "Each checkpoint is whole and stays as it is: every byte and every shard is there.",
    "CKPT-005": "All checkpoints hold the same tensors, in the same shapes and dtypes.",
    "CKPT-006": "Names stay distinct when nested ones are joined by dots.",
    "CKPT-007": "No link, index or table leads out of the folder.",
    "CKPT-008": "Every part is a regular file.",
    "CKPT-009": "No header, table or nesting is larger than any honest program makes it.",
    "CKPT-010": "Each file is laid out in a way that this program reads.",
    "CKPT-011": "Each checkpoint holds a tensor of a floating dtype.",
}
_CHECKPOINT_REMARKS: dict[str, tuple[Severity, str]] = {
    "CKPT-101": ("info", "Checkpoints carry checksums that are verified."),
    "CKPT-102": ("warn", "No entry of the folder is left out."),
    "CKPT-103": ("info", "No tensor is left out."),
    "CKPT-104": ("warn", "Pickles mention no code beyond PyTorch's own."),
}

#: The rules of folders of checkpoints by their ids; none is a rule of the format.
CHECKPOINT_RULES: dict[str, Rule] = {
    **{id: Rule(id, "error", text) for id, text in _CHECKPOINT_ERRORS.items()},
    **{id: Rule(id, *rule) for id, rule in _CHECKPOINT_REMARKS.items()},
}
_ALL = RULES | CHECKPOINT_RULES


def finding(rule: str, location: str, message: str, **evidence: Value) -> Finding:
    """A finding of a rule at a place, as severe as the rule."""
    return Finding(rule, _ALL[rule].severity, message, {"location": location, **evidence})


def rank(found: Finding) -> int:
    """The place of a finding's rule among all rules, by which findings are ordered."""
    return list(_ALL).index(found.id)


def broken(error: FormatError) -> Finding:
    """The finding that says what could not be read."""
    return finding(error.rule, error.location, str(error))
