"""A folder of checkpoints: which of its entries are read, in which order, at which steps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from trajfile.errors import Damaged, NotATrajectory
from trajfile.importers.checkpoint import Checkpoint
from trajfile.importers.files import Files
from trajfile.importers.kinds import Kind, is_unfinished, kind_of, kind_of_folder, suffix_of
from trajfile.importers.names import NOT_RUN
from trajfile.importers.refusal import TRUST, leads_out
from trajfile.importers.steps import natural, step_in_name

_MOST_ENTRIES = 1_000_000


@dataclass
class Found:
    """What a path holds.

    Attributes:
        checkpoints: In the order of their steps, each with its step.
        left_out: Names of entries that are not read, by the reason in words.
        counted_in: ``steps``, or ``epochs`` if only those are known.
    """

    checkpoints: list[Checkpoint]
    left_out: dict[str, list[str]] = field(default_factory=dict)
    counted_in: str = "steps"


def read_folder(path: Path, files: Files) -> Found:
    """Find and read the checkpoints at a path, their headers only.

    Args:
        path: A checkpoint, a folder of them, or a pattern.
        files: Reads them.

    Returns:
        What it holds.

    Raises:
        NotATrajectory: If it holds no checkpoint.
    """
    left_out: dict[str, list[str]] = {}
    root = path if path.is_dir() else path.parent
    alone = path.is_file() or kind_of_folder(path) is not None
    chosen = []
    if not path.exists():
        listed = [e for e in _entries(root, {}) if e.match(path.name)]
    else:
        listed = [path] if alone else list(_entries(path, left_out))
    for entry in listed:
        kind = kind_of(entry)
        if kind is not None:
            chosen.append((entry, kind))
    folders = [(entry, kind) for entry, kind in chosen if entry.is_dir()]
    if folders and len(folders) < len(chosen):
        beside = [entry.name for entry, _ in chosen if not entry.is_dir()]
        left_out.setdefault("beside folders of checkpoints", []).extend(beside)
        chosen = folders
    if not chosen and not path.exists():
        raise NotATrajectory(
            f"{path}: no checkpoint matches the pattern", path=path, rule="CORE-001"
        )
    if not chosen:
        raise NotATrajectory(
            f"{path} is a folder, but not a Zarr v3 group: it has no valid zarr.json; nor does it "
            "hold checkpoints of a kind that this program reads",
            path=path,
            rule="CORE-002",
        )
    _one_kind(path, chosen)
    checkpoints = [kind.read(entry, root, files) for entry, kind in chosen]
    return ordered(path, checkpoints, left_out)


def _entries(path: Path, left_out: dict[str, list[str]]) -> Iterator[Path]:
    """What lies in a folder, in natural order, without links and unfinished files."""
    try:
        entries = sorted(path.iterdir(), key=lambda entry: natural(entry.name))
    except OSError as error:
        raise Damaged(
            f"{path} cannot be listed: {error.strerror}; check its permissions",
            path=path,
            rule="CKPT-004",
        ) from error
    for entry in entries:
        if is_unfinished(entry.name):
            left_out.setdefault("unfinished", []).append(entry.name)
        elif entry.is_symlink() and _looks_like_one(entry):
            if not entry.resolve().is_relative_to(path.resolve()):
                leads_out(entry, "is a link out of the folder")
            left_out.setdefault("links to others", []).append(entry.name)
        elif not entry.name.startswith("."):
            yield entry


def _looks_like_one(entry: Path) -> bool:
    return entry.is_dir() or bool(suffix_of(entry.name))


def _one_kind(path: Path, chosen: Sequence[tuple[Path, Kind]]) -> None:
    counts = Counter(kind.name for _, kind in chosen)
    if len(counts) > 1:
        listed = ", ".join(f"{count} of {name}" for name, count in counts.most_common())
        examples = {kind.name: entry.name for entry, kind in reversed(chosen)}
        raise Damaged(
            f"{path} holds checkpoints of several kinds ({listed}; for example "
            f"{', '.join(examples.values())}); move one kind elsewhere, or give a pattern such as "
            f"'{path}/*{chosen[0][0].suffix}'",
            path=path,
            rule="CKPT-003",
        )


def ordered(path: Path, checkpoints: list[Checkpoint], left_out: dict[str, list[str]]) -> Found:
    """Checkpoints by their steps.

    Args:
        path: Where they lie, for messages.
        checkpoints: The checkpoints.
        left_out: Names of entries that are not read, by the reason; more are added.

    Returns:
        What there is.

    Raises:
        NotATrajectory: If none holds a parameter.
        Damaged: If the steps are not known, or contradict one another.
    """
    if not any(checkpoint.params for checkpoint in checkpoints):
        hidden = any(map(_may_hide_some, checkpoints))
        raise NotATrajectory(
            f"{checkpoints[0].path} holds no tensor of a floating dtype; give checkpoints of a "
            f"model{f', {TRUST}' if hidden else ''}",
            path=checkpoints[0].path,
            rule="CKPT-011",
        )
    for checkpoint in checkpoints:
        if not checkpoint.params:
            left_out.setdefault("without parameters", []).append(checkpoint.path.name)
    checkpoints = [checkpoint for checkpoint in checkpoints if checkpoint.params]
    placed: dict[int, tuple[Checkpoint, bool]] = {}
    unplaced: list[Checkpoint] = []
    units: dict[str, Checkpoint] = {}
    for checkpoint in sorted(checkpoints, key=lambda each: not _numbered(each)):
        step, unit = step_of(checkpoint)
        if step is None:
            unplaced.append(checkpoint)
            continue
        named = _numbered(checkpoint)
        if step in placed:
            if not named or not placed[step][1]:
                left_out.setdefault("same step as another", []).append(checkpoint.path.name)
                continue
            raise Damaged(
                f"{placed[step][0].path.name} and {checkpoint.path.name} in {path} are both of "
                f"step {step}; keep one of them, or rename it",
                path=path,
                rule="CKPT-002",
            )
        units.setdefault(unit, checkpoint)
        placed[step] = (replace(checkpoint, step=step), named)
    if len(units) > 1:
        by_step, by_epoch = units["steps"].path.name, units["epochs"].path.name
        raise Damaged(
            f"{path} counts some checkpoints in steps ({by_step}) and others in epochs "
            f"({by_epoch}); rename them to one count",
            path=path,
            rule="CKPT-001",
        )
    if not placed and len(unplaced) == 1:
        return Found([replace(unplaced[0], step=0)], left_out, "unknown")
    if not placed:
        raise Damaged(
            f"{path} holds {len(unplaced)} checkpoints, none of which says its step (for example "
            f"{unplaced[0].path.name}); put the step into the names, as in step_100",
            path=path,
            rule="CKPT-001",
        )
    for checkpoint in unplaced:
        left_out.setdefault("without a step", []).append(checkpoint.path.name)
    ordered = [placed[step][0] for step in sorted(placed)]
    return Found(ordered, left_out, next(iter(units)))


def _may_hide_some(checkpoint: Checkpoint) -> bool:
    """Whether code that was not run may be what stands between a checkpoint and its tensors."""
    pickled = checkpoint.kind in {"torch", "lightning", "torch_distributed"} and not checkpoint.ran
    return pickled and (not checkpoint.left_out or NOT_RUN in checkpoint.left_out)


def step_of(checkpoint: Checkpoint) -> tuple[int | None, str]:
    """The step of a checkpoint, and whether it is counted in ``steps`` or ``epochs``."""
    step, how = step_in_name(stem_of(checkpoint.path))
    if how == "step":
        return step, "steps"
    if checkpoint.step is not None:
        return checkpoint.step, "steps"
    if how == "number":
        return step, "steps"
    if how == "epoch":
        return step, "epochs"
    return checkpoint.epoch, "epochs"


def stem_of(path: Path) -> str:
    """A checkpoint's name without the suffix of its kind."""
    suffix = suffix_of(path.name)
    return path.name[: len(path.name) - len(suffix)] if suffix else path.name


def _numbered(checkpoint: Checkpoint) -> bool:
    return step_in_name(stem_of(checkpoint.path))[0] is not None
