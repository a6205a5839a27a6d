"""Importing this lets TensorFlow run its graphs as they were traced: most run once, and optimising takes longer.

As users have them, optimised, graphs run in those tests that start a command or a server's session as a process, and in
`training/test_train.py` where a run is killed.
"""

import tensorflow as tf

tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})
