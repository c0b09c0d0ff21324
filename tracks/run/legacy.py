"""The published image score that needs the whole test set: transductive, for reproduction only."""

from collections.abc import Sequence

from tracks.errors import TrackInputError
from tracks.run.store import Row

LEGACY_IMAGE_SCORE = "legacy, transductive: mean of the text score and the map maximum scaled over the test set"


def transductive_image_scores(rows: Sequence[Row]) -> dict[str, float]:
    """Image score by name as APRIL-GAN's few-shot code makes it, for the rows of one category.

    The maximum of the combined map is scaled by its minimum and maximum over all test images of
    the category, then averaged with the text score. An image's score so depends on the other images.

    Raises:
        TrackInputError: the rows lack the two scalars, or all map maxima are equal.
    """
    missing = [row.name for row in rows if not {"text_score", "map_max"} <= row.scalars.keys()]
    if missing:
        raise TrackInputError(
            f"expected rows with text_score and map_max for image_score=legacy_minmax, got none of them for "
            f"{missing[0]}; this model has no such legacy score, use image_score=model"
        )
    maxima = [row.scalars["map_max"] for row in rows]
    low, high = min(maxima), max(maxima)
    if high == low:
        raise TrackInputError(
            f"expected different map maxima to scale by their range, got {len(rows)} images at {low}; "
            "use image_score=model"
        )
    return {row.name: (row.scalars["text_score"] + (row.scalars["map_max"] - low) / (high - low)) / 2 for row in rows}
