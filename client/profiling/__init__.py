"""What a round costs on a class of machines: predicted, and measured in containers."""
