"""Repeats the paper's figures and tables, and compares ways to choose and merge layers: many simulations, one table."""
