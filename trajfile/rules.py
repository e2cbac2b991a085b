"""The rules by their stable ids, one line each.

The rules of the format, whose reasons are in spec/format.md. CORE: what a trajectory is. STR:
streams and their tensors. DT: dtypes. COM: commits. SUM: checksums. H5 and ZR: one container
alone. USE rules are no rules of the format but remarks on what an analysis will miss. CKPT rules
are of folders of checkpoints that other programs saved (spec/checkpoints.md).

``python -m trajfile.rules`` prints the table as it stands in spec/format.md.
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
        every_reader: Whether any reader must refuse a file that breaks it, for bits would be
            misread or the reader misled; the others are for validators to find.
    """

    id: str
    severity: Severity
    text: str
    every_reader: bool = False


_ERRORS = {
    "CORE-001": "There is a file or folder at the path.",
    "CORE-002": "It is an HDF5 file, from its first byte on, or a Zarr v3 group.",
    "CORE-003": "Its root attribute 'format' is 'trajfile'.",
    "CORE-004": "Its major format version is one this program reads.",
    "CORE-005": "It requires no feature this program does not know.",
    "CORE-006": "It is as long as it says, and its container can be opened.",
    "CORE-007": "Every array is there, with its rank and at least the columns of the manifest.",
    "CORE-008": "The root attributes are there, each of its type.",
    "CORE-009": "No table claims more than 1 MiB and 256 times the bytes stored of it.",
    "CORE-010": "Every part is a regular file.",
    "CORE-011": "The manifest has at most 2^30 bytes.",
    "CORE-012": "Its creation was finished.",
    "CORE-013": "The manifest is JSON Lines of the manifest's shape (manifest.schema.json).",
    "CORE-014": "What is stated of the optimizer has the stated types.",
    "CORE-015": "What is stated of the gradients has the stated types and words.",
    "CORE-016": "Reading it apart ends within limits of memory and time (untrusted reading only).",
    "STR-001": "Stream names are those of the format, each once.",
    "STR-002": "Scalar names are unique.",
    "STR-003": "Names are printable text of 1 to 1024 characters.",
    "STR-004": "Tensor names are unique within a stream.",
    "STR-005": "Shapes, first rows and column counts are possible.",
    "STR-006": "A lane's tensors follow one another without holes.",
    "STR-007": "A tensor never joins before one that lies to its left in the lane.",
    "STR-008": "Steps increase within a stream from 0 or above; samples of a step count up from 0.",
    "STR-009": "Other streams hold only tensors of params; gradients and updates in their shapes.",
    "STR-010": "A later revision of the manifest only appends tensors and scalars.",
    "STR-011": "A tensor's first row is committed, unless it is 0 or 2^48.",
    "STR-012": "Tensors without a row come last in their stream's table.",
    "DT-001": "Dtypes are those of the dtype table.",
    "DT-002": "Every array has the element type that holds its dtype.",
    "DT-003": "Every lane has the attribute 'dtype' with its name.",
    "COM-001": "Commit records match their checksums and numbers, except for those left by a kill "
    "at the end.",
    "COM-002": "What a commit record counts is there.",
    "COM-003": "Commits are numbered from 0 without gaps; their steps never decrease from 0 or "
    "above.",
    "COM-004": "Each row's step is the step of a commit.",
    "COM-005": "Steps of the scalars increase, each the step of a commit.",
    "COM-006": "No commit has the time 0.",
    "COM-007": "A commit record has 8 + 2n columns for the n streams of the manifest.",
    "COM-008": "A later commit record never counts less, unless it goes back to what was.",
    "SUM-001": "Manifest, keys and scalars match the checksums in the last commit record.",
    "SUM-002": "Every committed chunk exists.",
    "SUM-003": "Every committed chunk matches its checksum and can be decoded.",
    "SUM-004": "The root attributes are those that the manifest repeats.",
    "H5-001": "No external or virtual storage.",
    "H5-002": "No soft, external or user-defined link.",
    "H5-003": "Nothing is linked twice.",
    "H5-004": "At most 100,000 objects, nested at most 32 deep.",
    "H5-005": "No committed datatype.",
    "H5-006": "No filter but shuffle, deflate, zstd and fletcher32.",
    "H5-007": "Lanes pass shuffle (or not), deflate or zstd (or neither), then fletcher32.",
    "H5-008": "Tables are not filtered.",
    "H5-009": "Arrays are chunked and grow downwards, /scalars/value and .joined also sideways.",
    "H5-010": "A chunk of a lane is one row (of an archive, several) and at most 262144 elements.",
    "H5-011": "No committed chunk skips a filter.",
    "H5-012": "Text in the root attributes is of fixed length.",
    "H5-013": "The superblock is of version 3.",
    "ZR-001": "No symbolic link in the folder.",
    "ZR-002": "Each zarr.json is one of Zarr v3, of at most 16 MiB.",
    "ZR-003": "Every folder above an array has the zarr.json of a group.",
    "ZR-004": "Chunks lie on a regular grid of the array's rank.",
    "ZR-005": "Chunk keys are of the encoding 'default' with the separator '.'.",
    "ZR-006": "No storage transformers.",
    "ZR-007": "No codec but sharding_indexed, bytes, gzip, zstd, crc32c and in archives blosc.",
    "ZR-008": "Lanes are sharded: bytes (little), a compression or none, crc32c; index at the end.",
    "ZR-009": "A shard of a lane is one row (in archives several) of whole chunks, within limits.",
    "ZR-010": "Tables have the codec bytes (little) alone.",
    "ZR-011": "A chunk of a table has at most 2^24 elements.",
    "ZR-012": "Fill values are those of the format.",
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

#: Of these a file breaks none that does any harm to a reader which keeps to the rest.
_FOR_VALIDATORS = {
    *(
        "CORE-014",
        "CORE-015",
        "CORE-016",
        "STR-008",
        "STR-009",
        "STR-010",
        "STR-011",
        "STR-012",
        "DT-003",
    ),
    *("COM-003", "COM-004", "COM-005", "COM-006"),
    *("H5-004", "H5-005", "H5-008", "H5-009", "H5-010", "H5-013"),
    *("ZR-003", "ZR-004", "ZR-005", "ZR-006", "ZR-009", "ZR-010", "ZR-011", "ZR-012"),
}

#: Every rule by its id.
RULES: dict[str, Rule] = {
    **{id: Rule(id, "error", text, id not in _FOR_VALIDATORS) for id, text in _ERRORS.items()},
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
    "CKPT-104": ("warn", "Pickles mention no code beyond PyTorch's own, and none was run."),
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


def severity_of(rule: str) -> Severity | None:
    """How bad it is to break a rule; None if there is no such rule."""
    return _ALL[rule].severity if rule in _ALL else None


def rank(found: Finding) -> int:
    """The place of a finding's rule among all rules, by which findings are ordered."""
    return list(_ALL).index(found.id)


def broken(error: FormatError) -> Finding:
    """The finding that says what could not be read."""
    return finding(error.rule, error.location, str(error))


def table() -> str:
    """All rules as the Markdown table of spec/format.md."""
    lines = ["| id | severity | found by | holds in a valid file |", "|---|---|---|---|"]
    for rule in RULES.values():
        finder = "every reader" if rule.every_reader else "a validator"
        lines.append(f"| {rule.id} | {rule.severity} | {finder} | {rule.text} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
