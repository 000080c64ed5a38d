"""The classes over JAX and TensorFlow."""
