"""The error a track raises for input that its user can mend."""


class TrackInputError(ValueError):
    """Bad input to a track: a folder, an image, a setting.

    The message is one paragraph that says what was expected, what was got and the remedy.
    """
