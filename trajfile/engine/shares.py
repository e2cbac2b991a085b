"""Dealing out tiles, share by share, to whoever is free."""

from __future__ import annotations

from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


class Shares(Generic[T]):
    """Tiles in order, each in as many shares as there are lanes.

    A lane's shares are taken one after another, in the order of the tiles. Shares of different
    lanes are independent.

    Args:
        lanes: How many.
    """

    def __init__(self, lanes: int) -> None:
        self._lanes = lanes
        self._changed = Condition()
        self._tiles: list[_Open[T]] = []
        self._busy: set[int] = set()
        self._closed = False

    def put(self, tile: T) -> None:
        """Add a tile behind all others."""
        with self._changed:
            self._tiles.append(_Open(tile, list(range(self._lanes)), self._lanes))
            self._changed.notify_all()

    def take(self) -> tuple[T, int, bool] | None:
        """Wait for a share.

        Returns:
            The tile, the lane, and whether it is the first share of the tile, whose taker must
            call `opened`; until then no other share of it is given out. None once closed.
        """
        with self._changed:
            while True:
                if self._closed:
                    return None
                found = self._find()
                if found is not None:
                    return found
                self._changed.wait()

    def _find(self) -> tuple[T, int, bool] | None:
        waiting: set[int] = set()  # lanes with an earlier share that nobody has taken
        for tile in self._tiles:
            if tile.opened or not tile.opening:
                for lane in tile.left:
                    if lane not in self._busy and lane not in waiting:
                        tile.left.remove(lane)
                        self._busy.add(lane)
                        first, tile.opening = not tile.opening, True
                        return tile.tile, lane, first
            waiting.update(tile.left)
        return None

    def opened(self, tile: T) -> None:
        """Say that other shares of a tile may be given out."""
        with self._changed:
            next(found for found in self._tiles if found.tile is tile).opened = True
            self._changed.notify_all()

    def done(self, tile: T, lane: int) -> bool:
        """Give a share back.

        Args:
            tile: The tile.
            lane: The lane.

        Returns:
            Whether it was the last of its tile.
        """
        with self._changed:
            found = next(one for one in self._tiles if one.tile is tile)
            self._busy.discard(lane)
            found.unfinished -= 1
            last = found.unfinished == 0
            if last:
                self._tiles.remove(found)
            self._changed.notify_all()
            return last

    def close(self) -> None:
        """Give out nothing more."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()


class _Open(Generic[T]):
    """A tile and which of its shares are left."""

    def __init__(self, tile: T, left: list[int], unfinished: int) -> None:
        self.tile, self.left, self.unfinished = tile, left, unfinished
        self.opening = self.opened = False
