"""Tests of the server functions: models, clients, formulas, and FEDn's hooks in one process."""
