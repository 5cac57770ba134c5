"""Readers of data sets' official files, one module each."""
