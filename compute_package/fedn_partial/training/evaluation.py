"""Evaluation of a model on test examples."""

from __future__ import annotations

from fedn_partial.training.step import disable_graph_optimizer, loss_function, scaled, signature


def evaluate(model, x, y, batch_size: int = 32, step=None) -> tuple[float, float]:
    """Return accuracy (share of correct predictions) and mean loss of `model` on x (examples, ...), y (examples,).

    `step` is the result of ``trace`` for the same model and shape of examples, or None to trace one.
    """
    step = step or trace(model, x)
    correct, total = 0.0, 0.0
    for start in range(0, len(y), batch_size):
        hits, loss = step(x[start : start + batch_size], y[start : start + batch_size])
        correct, total = correct + float(hits), total + float(loss)
    return correct / len(y), total / len(y)


def trace(model, x):
    """Trace the function of (examples, classes) that returns the correct predictions and the summed loss of a batch.

    `x` : examples of the shape and dtype of the batches.
    """
    import tensorflow as tf

    disable_graph_optimizer()
    loss_of = loss_function(model)

    @tf.function(input_signature=signature(x))
    def step(images, classes):
        predictions = model(scaled(images), training=False)
        if predictions.shape[-1] == 1:
            hits = tf.cast(predictions[:, 0] > 0.5, tf.int32) == classes
        else:
            hits = tf.argmax(predictions, axis=-1, output_type=tf.int32) == classes
        return tf.reduce_sum(tf.cast(hits, tf.float32)), tf.reduce_sum(loss_of(classes, predictions))

    return step
