"""Costs of a round on a class of machines, predicted and measured in containers."""
