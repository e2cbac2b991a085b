"""What to record and when: a cadence and a choice of tensors for each stream, and what it costs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase

from trajfile.errors import UsageError
from trajfile.recorders.cadence import Cadence, OnSpike, cadence, parts_of
from trajfile.schema import GRADIENT_SAMPLES, GRADIENTS, PARAMS, UPDATES

OPTIMIZER = "optimizer"
SCALARS = "scalars"
STREAMS = (PARAMS, GRADIENTS, UPDATES, OPTIMIZER, GRADIENT_SAMPLES, SCALARS)

#: Bytes that a commit takes beside its rows: the record of it, its steps, its scalars.
COMMIT_BYTES = 160


@dataclass(frozen=True)
class Selection:
    """When one stream is recorded, and which of its tensors.

    Attributes:
        when: At which steps.
        tensors: Globs of tensor names; those that begin with ``!`` leave tensors out.
    """

    when: Cadence
    tensors: tuple[str, ...] = ("*",)

    def chooses(self, name: str) -> bool:
        """Whether it holds the tensor of this name."""
        wanted = [glob for glob in self.tensors if not glob.startswith("!")] or ["*"]
        unwanted = [glob[1:] for glob in self.tensors if glob.startswith("!")]
        return any(fnmatchcase(name, glob) for glob in wanted) and not any(
            fnmatchcase(name, glob) for glob in unwanted
        )

    def __str__(self) -> str:
        """The text that `Schedule` reads."""
        which = "" if self.tensors == ("*",) else f" of {', '.join(self.tensors)}"
        return f"{self.when}{which}"


Rule = str | int | Cadence | Selection | None
"""A cadence (see `trajfile.recorders.cadence`), which may end in ``of GLOB, GLOB, !GLOB``."""


class Schedule:
    """When each stream is recorded, and for which tensors.

    Attributes:
        streams: The selections, by stream; ``optimizer`` stands for every slot, ``scalars`` for
            the scalars.
        samples: Gradient samples to draw at each step that is due for them.
        name: Of the preset it comes from, else ``custom``.

    Example:
        >>> schedule = Schedule(params="4 every 100 of *.weight", gradients="4 every 100")
        >>> print(schedule)
        params            4 every 100 of *.weight
        gradients         4 every 100
        scalars           every 1
    """

    def __init__(
        self,
        *,
        params: Rule = None,
        gradients: Rule = None,
        updates: Rule = None,
        optimizer: Rule = None,
        gradient_samples: Rule = None,
        scalars: Rule = "every 1",
        samples: int = 8,
        name: str = "custom",
    ):
        """Put a schedule together.

        Args:
            params: When the parameters are recorded; None: never.
            gradients: When the gradients. Tensors that ``params`` leaves out stay out here too.
            updates: When the updates.
            optimizer: When the optimizer's slots.
            gradient_samples: When gradients of several mini-batches at frozen parameters.
            scalars: When loss, learning rate and the like. They join every other step that is
                recorded too.
            samples: Gradient samples at each such step.
            name: What `str` calls it.

        Raises:
            UsageError: If a rule is not in the language, nothing is recorded but scalars while
                another stream needs ``params``, or ``samples`` is below 1.
        """
        given = (params, gradients, updates, optimizer, gradient_samples, scalars)
        self.streams: Mapping[str, Selection] = {
            stream: _selection(rule)
            for stream, rule in zip(STREAMS, given, strict=True)
            if rule is not None
        }
        self.samples = samples
        self.name = name
        if samples < 1:
            raise UsageError(f"samples is {samples}, expected at least 1")
        if PARAMS not in self.streams and set(self.streams) - {SCALARS}:
            raise UsageError(
                "a schedule with gradients, updates, optimizer state or samples needs params too: "
                "they are stored as columns of the same tensors; pass for instance params='at 0'"
            )

    def chooses(self, stream: str, name: str) -> bool:
        """Whether a tensor is recorded in a stream, which it is only if it is in ``params``."""
        return all(
            self.streams[each].chooses(name) for each in {PARAMS, stream} if each in self.streams
        )

    def check_globs(self, names: Iterable[str]) -> None:
        """Check that every glob that includes tensors finds one.

        Args:
            names: Of the model's tensors.

        Raises:
            UsageError: Naming the first that finds none.
        """
        known = list(names)
        for stream, selection in self.streams.items():
            if stream == SCALARS:
                continue
            for glob in selection.tensors:
                if not any(fnmatchcase(name, glob.removeprefix("!")) for name in known):
                    raise UsageError(
                        f"the schedule's {stream} names {glob!r}, which no tensor matches; the "
                        f"model has {', '.join(known[:6])}{', ...' if len(known) > 6 else ''}"
                    )

    def without(self, *streams: str) -> Schedule:
        """The schedule without some of its streams."""
        kept = {name: rule for name, rule in self.streams.items() if name not in streams}
        return Schedule(
            **{SCALARS: None, **kept},
            samples=self.samples,
            name=self.name,
        )

    def rows(self, steps: int) -> dict[str, int]:
        """Rows of each stream after so many steps, events apart; of samples each counts."""
        return {
            stream: len(selection.when.steps(steps))
            * (self.samples if stream == GRADIENT_SAMPLES else 1)
            for stream, selection in self.streams.items()
        }

    def cost(self, tensors: Mapping[str, int], steps: int, slots: int = 2) -> dict[str, int]:
        """Bytes that each stream takes after so many steps, uncompressed and without events.

        Args:
            tensors: Bytes of each of the model's tensors.
            steps: Steps of the run.
            slots: What the optimizer keeps for each parameter: 2 for Adam, 1 for momentum.

        Returns:
            Bytes by stream.
        """
        rows = self.rows(steps)
        cost = {}
        for stream, count in rows.items():
            row = sum(size for name, size in tensors.items() if self.chooses(stream, name))
            cost[stream] = count * (COMMIT_BYTES if stream == SCALARS else row)
            cost[stream] *= slots if stream == OPTIMIZER else 1
        return cost

    def describe(self, tensors: Mapping[str, int], steps: int, slots: int = 2) -> str:
        """A table of what is recorded, how often, what it takes and what it makes possible.

        Args:
            tensors: Bytes of each of the model's tensors.
            steps: Steps of the run.
            slots: What the optimizer keeps for each parameter.

        Returns:
            Lines of text.
        """
        from trajfile.recorders.answers import answers

        rows, cost = self.rows(steps), self.cost(tensors, steps, slots)
        lines = [f"{self.name}: {steps} steps of {_size(sum(tensors.values()))} parameters"]
        lines += [
            f"  {stream:<17} {selection!s:<28} {rows[stream]:>8} rows {_size(cost[stream]):>12}"
            for stream, selection in self.streams.items()
        ]
        total = sum(cost.values())
        lines.append(f"  in all {_size(total)}, {_size(total / max(steps, 1))} a step")
        lines += [f"  {metric:<17} {answer}" for metric, answer in answers(self).items()]
        return "\n".join(lines)

    @property
    def listens(self) -> bool:
        """Whether a rule depends on the loss."""
        return any(
            isinstance(part, OnSpike)
            for selection in self.streams.values()
            for part in parts_of(selection.when)
        )

    def __str__(self) -> str:
        """One line for each stream."""
        return "\n".join(f"{stream:<17} {rule}" for stream, rule in self.streams.items())

    def __repr__(self) -> str:
        """On one line."""
        rules = ", ".join(f"{stream}={str(rule)!r}" for stream, rule in self.streams.items())
        return f"Schedule({rules})"


def _selection(rule: str | int | Cadence | Selection) -> Selection:
    if isinstance(rule, Selection):
        return rule
    if not isinstance(rule, str):
        return Selection(cadence(rule))
    when, of, globs = rule.partition(" of ")
    names = tuple(glob.strip() for glob in globs.split(","))
    if of and not all(name.removeprefix("!") for name in names):
        raise UsageError(f"schedule {rule!r}: expected globs of tensor names after 'of'")
    return Selection(cadence(when.strip()), names if of else ("*",))


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if number < 1024 or unit == "TiB":
            return f"{number:.3g} {unit}" if unit != "B" else f"{number:.0f} B"
        number /= 1024
    raise AssertionError("the last unit takes all")
