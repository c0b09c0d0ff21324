"""Scoring one category: our metrics beside those of other packages, for time, memory and value."""
