"""Challenge submissions written from the prediction store, one writer and one validator per format."""
