"""Encoding, checking and merging of models and updates."""
