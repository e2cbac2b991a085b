"""The rules of the format by their stable ids, one line each; spec/format.md says why.

T001 to T019 are checked by opening and reading a container, T020 to T029 by parsing its manifest,
T030 to T039 on what it holds. T040 on are not rules of the format but remarks on what an analysis
will miss.
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
    "T001": "There is a file or folder at the path.",
    "T002": "It is an HDF5 file or a Zarr v3 group.",
    "T003": "Its root attribute 'format' is 'trajfile'.",
    "T004": "Its major format version is one this program reads.",
    "T005": "It requires no feature this program does not know.",
    "T006": "It is as long as it says, and its container can be opened.",
    "T007": "Every array has the dtype, rank and layout of the format.",
    "T008": "Commit records match their checksums, except for those left by a kill at the end.",
    "T009": "What a commit record counts is there, and later records never count less.",
    "T010": "Manifest, keys and scalars match the checksums in the last commit record.",
    "T011": "Every committed chunk exists.",
    "T012": "Every committed chunk matches its checksum and can be decoded.",
    "T013": "No soft, external or symbolic link; nothing is linked twice.",
    "T014": "No external or virtual storage.",
    "T015": "No filter or codec but those of the format.",
    "T016": "Every part is a regular file.",
    "T017": "No part is larger than the format's limits.",
    "T018": "Its creation was finished.",
    "T020": "The manifest is JSON Lines of the manifest's shape (manifest.schema.json).",
    "T021": "Stream names are those of the format, each once.",
    "T022": "Scalar names are unique.",
    "T023": "Names are printable text of 1 to 1024 characters.",
    "T024": "Tensor names are unique within a stream.",
    "T025": "Dtypes are those of the dtype table.",
    "T026": "Shapes, first rows and column counts are possible.",
    "T027": "A lane's tensors follow one another without holes.",
    "T028": "A tensor never joins before one that lies to its left in the lane.",
    "T030": "Commits are numbered from 0 without gaps, and their steps never decrease.",
    "T031": "Steps increase within a stream; samples of a step count up from 0.",
    "T032": "Each row's step is the step of a commit.",
    "T033": "Steps of the scalars increase, each the step of a commit.",
    "T035": "Other streams hold only tensors of params; gradients and updates in their shapes.",
    "T036": "What is stated of the optimizer has the stated types.",
    "T037": "What is stated of the gradients has the stated types and words.",
}
_REMARKS = {
    "T040": "Something has been recorded.",
    "T041": "Recorded gradients state their stage (raw, scaled, clipped) and source.",
    "T042": "The learning rate is known at some step.",
    "T043": "Learning rates are finite and not negative.",
    "T044": "Scalars are finite.",
    "T045": "Tensors are finite.",
    "T046": "Groups name tensors of params that joined by now.",
}

#: Every rule by its id.
RULES: dict[str, Rule] = {
    **{id: Rule(id, "error", text) for id, text in _ERRORS.items()},
    **{id: Rule(id, "warn", text) for id, text in _REMARKS.items()},
}


def finding(rule: str, location: str, message: str, **evidence: Value) -> Finding:
    """A finding of a rule at a place, as severe as the rule."""
    return Finding(rule, RULES[rule].severity, message, {"location": location, **evidence})


def broken(error: FormatError) -> Finding:
    """The finding that says what could not be read."""
    return finding(error.rule, error.location, str(error))
