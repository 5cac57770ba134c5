"""Clients that run on this machine."""
