"""The error the scorer raises for input that its user can mend."""


class ScoringInputError(ValueError):
    """Bad input to the scorer: a map, a mask, a score.

    The message is one paragraph that says what was expected, what was got and the remedy.
    """
