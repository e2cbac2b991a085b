"""`trajfile metrics`: what can be computed, and from what."""

from __future__ import annotations

from ..options import MetricId


def metrics(metric_id: MetricId = None) -> int:
    """List the metrics; with an ID, its definition, ingredients, options and reference."""
    from trajfile.metrics import METRICS

    from ..render.metrics import listing, page
    from ..render.terminal import Terminal

    terminal = Terminal()
    if metric_id is None:
        terminal.show(*listing(terminal, METRICS))
    else:
        terminal.show(*page(terminal, METRICS, metric_id))
    return 0
