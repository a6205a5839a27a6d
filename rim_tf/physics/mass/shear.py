"""External shear: the tide of whatever mass lies beyond the field."""

import math

from keras import ops

from rim_tf.physics.mass.columns import Disc
from rim_tf.physics.mass.profile import Profile


class Shear(Profile):
    """External shear about the ORIGIN: psi = gamma1 / 2 (x^2 - y^2) + gamma2 x y.

    Parameters, each [batch, 1, ...]:
      gamma1: stretches images along +x where it is above 0.
      gamma2: likewise along the diagonal of +x and +y.
    """

    name = "shear"
    columns = (
        Disc(
            ("gamma1", "gamma2"),
            largest=math.nextafter(1.0, 0.0),
            radius=0.999,
            refusal="The shear hypot(gamma1, gamma2) is {value}; it must be below 1.",
        ),
    )

    def deflection(self, theta_x, theta_y, gamma1, gamma2):
        """As `Profile.deflection`."""
        return gamma1 * theta_x + gamma2 * theta_y, gamma2 * theta_x - gamma1 * theta_y

    def add_deflection(self, alpha, theta_x, theta_y, gamma1, gamma2):
        """As `Profile.add_deflection`, term by term: an SIE with shear keeps its bits from version to version."""
        if alpha is None:
            return self.deflection(theta_x, theta_y, gamma1, gamma2)
        return (
            alpha[0] + gamma1 * theta_x + gamma2 * theta_y,
            alpha[1] + gamma2 * theta_x - gamma1 * theta_y,
        )

    def convergence(self, theta_x, theta_y, gamma1, gamma2):
        """As `Profile.convergence`: none."""
        return ops.zeros_like(theta_x)

    def shear(self, theta_x, theta_y, gamma1, gamma2):
        """As `Profile.shear`: the same everywhere."""
        return gamma1 * ops.ones_like(theta_x), gamma2 * ops.ones_like(theta_x)

    def potential(self, theta_x, theta_y, gamma1, gamma2):
        """As `Profile.potential`."""
        return gamma1 / 2 * (theta_x**2 - theta_y**2) + gamma2 * theta_x * theta_y
