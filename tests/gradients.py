"""Tensors, derivatives and tracing, the same words on TensorFlow and on JAX."""

import keras
import numpy as np
from keras import ops

BACKEND = keras.backend.backend()


def tensor(x, dtype="float64"):
    return ops.convert_to_tensor(np.asarray(x), dtype=dtype)


def array(x):
    """A tensor as a NumPy array."""
    return ops.convert_to_numpy(x)


def vdot(a, b):
    """Scalar product over everything, batch included."""
    return float(np.vdot(array(a), array(b)))


def grad(f, argument=0):
    """The function that gives the derivative of the scalar f in one argument, or several; can be nested."""
    if BACKEND == "jax":
        import jax

        return lambda *xs: jax.grad(f, argnums=argument)(*map(ops.convert_to_tensor, xs))
    import tensorflow as tf

    def derivative(*xs):
        xs = [tf.convert_to_tensor(x) for x in xs]
        wanted = [xs[i] for i in argument] if isinstance(argument, tuple) else xs[argument]
        with tf.GradientTape() as tape:
            tape.watch(wanted)
            value = f(*xs)
        return tape.gradient(value, wanted, unconnected_gradients="zero")

    return derivative


def traced(f):
    """f inside the backend's compiler, its arguments unknown when it is traced."""
    if BACKEND == "jax":
        import jax

        return jax.jit(f)
    import tensorflow as tf

    return tf.function(f, autograph=False)


def whole(f, *static):
    """f compiled as one on JAX, which otherwise compiles each of its operations, and again for every shape.

    It pays for a network; operations of physics are few, and shared among tests. The arguments named as `static` are no
    tensors. On TensorFlow, which compiles nothing, f itself.
    """
    if BACKEND == "jax":
        import jax

        return jax.jit(f, static_argnames=static)
    return f


def slope(f, x, direction, step=1e-6):
    """Central difference of the scalar f at the NumPy array x."""
    above, below = f(tensor(x + step * direction)), f(tensor(x - step * direction))
    return (float(array(above)) - float(array(below))) / (2 * step)


def slopes(f, x, step=1e-6):
    """Central differences of the scalar f in every element of x, shaped like x."""
    f, result = traced(f), np.zeros(x.size)
    for i in range(x.size):
        unit = np.zeros(x.size)
        unit[i] = 1.0
        result[i] = slope(f, x, unit.reshape(x.shape), step)
    return result.reshape(x.shape)


def dense(function, shape):
    """The matrix of a linear function of arrays of this shape, batch included, column by column."""
    function, columns = traced(function), []
    for i in range(int(np.prod(shape))):
        unit = np.zeros(int(np.prod(shape)))
        unit[i] = 1.0
        columns.append(array(function(tensor(unit.reshape(shape)))).ravel())
    return np.stack(columns, axis=1)
