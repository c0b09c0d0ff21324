"""Scores anybody's anomaly maps, masks and image scores. Knows no data set and no model."""
