"""Importing this puts TensorFlow on one thread, as long as nothing has used it: before any test has run, that is.

The bytes of a set of lenses need it; where TensorFlow has more, every set is built by a process of its own, which
imports TensorFlow again.
"""

import contextlib

import tensorflow as tf

with contextlib.suppress(RuntimeError):
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
