"""Training and evaluation of a Keras model."""
