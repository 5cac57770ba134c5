"""Layers, selection and the tensors of updates."""
