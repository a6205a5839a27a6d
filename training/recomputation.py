"""Activations taken anew in the backward pass, so that only what goes in needs to be kept."""

import keras

if keras.backend.backend() == "jax":
    recomputed = keras.remat

else:
    import tensorflow as tf

    def recomputed(function):
        """The function, of which a gradient keeps the arguments alone.

        `tf.recompute_grad`, which is `keras.remat`, does not wait for the gradient from above, so that TensorFlow
        computes everything at once, or takes both passes for one: no memory is saved in a graph.

        Args:
          function: of tensors, that gives tensors. Others that it takes from around it count as constant.
        """

        @tf.custom_gradient
        def outer(*arguments):
            def gradient(*above, variables=None):
                variables = list(variables or [])
                with tf.control_dependencies(above):
                    again = [tf.identity(argument) for argument in arguments]
                with tf.GradientTape() as tape:
                    tape.watch([*again, *variables])
                    results = function(*again)
                slopes = tape.gradient(
                    results, [*again, *variables], output_gradients=list(above), unconnected_gradients="zero"
                )
                of_arguments, of_variables = slopes[: len(again)], slopes[len(again) :]
                return (of_arguments, of_variables) if variables else of_arguments

            return tuple(function(*arguments)), gradient

        return outer
