"""Rows of a store, for tests that need no store."""

from tracks.run.store import Row


def row(name, **scalars):
    """A row of an 8 x 8 map."""
    return Row(name, "bolt", 0, "good", 0.5, 8, 8, f"predictions/bolt/{name}.tiff", True, "1", scalars)
