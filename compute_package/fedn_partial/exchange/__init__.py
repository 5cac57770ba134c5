"""Models and updates as bytes."""
