"""Log lines that would come with every image: aloud the first time, quietly afterwards."""

import logging

NO_DIGITS = str.maketrans("", "", "0123456789")


class FirstTime:
    """Warnings about a category of images; a kind of them (its words without numbers) is repeated at debug level."""

    def __init__(self, log: logging.Logger):
        self._log = log
        self._said: set[tuple[str, str]] = set()

    def say(self, category: str, what: str) -> None:
        """Log a line that begins with the category."""
        kind = (category, what.translate(NO_DIGITS))
        self._log.log(logging.DEBUG if kind in self._said else logging.WARNING, "%s: %s", category, what)
        self._said.add(kind)
