"""Densities whose moments are known, as samplers see a posterior."""

import numpy as np
import tensorflow as tf

from rim_tf.inference.posterior import Gaussian, checksum


class Known:
    """exp(log_prob) of a vector u of two or more columns.

    Args:
      log_prob: function of a tensor [n, columns] -> [n].
      name: tells it apart.
    """

    def __init__(self, log_prob, name):
        self.tensor, self.fingerprint, self.calls = log_prob, checksum(name), []

    def __call__(self, u):
        self.calls.append(len(u))
        return np.asarray(self.tensor(tf.constant(u, tf.float32)), float)


MEAN = np.array([1.0, -2.0, 0.5])
COVARIANCE = np.array([[4.0, 1.2, 0.0], [1.2, 1.0, -0.3], [0.0, -0.3, 0.25]])


def gaussian():
    precision, mean = (tf.constant(each, tf.float32) for each in (np.linalg.inv(COVARIANCE), MEAN))
    return Known(lambda u: -0.5 * tf.reduce_sum((u - mean) @ precision * (u - mean), 1), "gaussian")


def near_gaussian(stretch=1.0):
    """Where a search ended, and a curvature that is wrong by a factor."""
    return Gaussian(MEAN + 0.3, stretch**2 * COVARIANCE)


# Bent more, steps that suit the middle of it are unstable in its arms, and gradients stick there.
BEND = 0.25


def banana():
    """x ~ N(0, 1), y ~ N(bend (x^2 - 1), 0.5): mean 0, variances 1 and 0.25 + 2 bend^2, no correlation."""
    return Known(lambda u: -0.5 * (u[:, 0] ** 2 + (u[:, 1] - BEND * (u[:, 0] ** 2 - 1)) ** 2 / 0.25), "banana")


def near_banana():
    return Gaussian(np.zeros(2), np.diag([1.0, 0.25 + 2 * BEND**2]))
