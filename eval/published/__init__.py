"""The published tables as CSV files, and their reader."""
