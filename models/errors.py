"""The error a model raises for input that its user can mend."""


class ModelInputError(ValueError):
    """Bad input to a model: a weights file, an image batch, an argument.

    The message is one paragraph that says what was expected, what was got and the remedy.
    """
