"""The HTML page of a run: what is drawn from its prediction store, read top to bottom in `page`."""
