"""Repeat the paper's figures and tables, and compare selectors and merge rules, in many simulations."""
