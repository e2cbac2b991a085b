"""Recorders: hooks that record a training with three lines, from any framework.

`trajfile.recorders.torch`, `.lightning`, `.transformers`, `.keras`, `.jax` and `.numpy` each hold
one; importing this package loads none of the frameworks. They share a schedule (`Schedule`,
`preset`) that says what is recorded when, and the promise that training goes on if recording fails.
"""

from __future__ import annotations

from trajfile.recorders.presets import preset
from trajfile.recorders.schedule import Schedule
from trajfile.recorders.session import RecordingWarning

__all__ = ["RecordingWarning", "Schedule", "preset"]
