"""The protocol of a mass profile, and the registry that finds them.

A profile is a subclass of `Profile` in a module of this package (or anywhere else): `name`, `columns` and `deflection`
are all that it must have. Convergence, shear and potential are worth writing where they have closed forms; convergence
and shear come from differences of the deflection otherwise.

Positions theta_x, theta_y [arcsec] are [batch, ...]; each parameter is [batch, 1, ...], so that they broadcast.
"""

from keras import ops

PROFILES = {}
"""name -> `Profile`, of every subclass that has been defined."""

# Half the distance over which the deflection is differenced [arcsec]; in float64 its square and rounding are 1e-8.
_STEP = 1e-4
# Softening of the centre [arcsec]. It moves alpha by theta_E (CORE / r)^2 / 2: 1e-9 at a hundredth of a pixel.
CORE = 1e-7


class Profile:
    """A kind of mass, without its numbers.

    Attributes:
      name: as in lens.json.
      columns: its parameters, in order, as `rim_tf.physics.mass.columns` describes them.
    """

    name: str
    columns: tuple

    def __init_subclass__(cls):
        PROFILES[cls.name] = cls()

    @property
    def names(self):
        """Of all parameters, in order."""
        return tuple(name for column in self.columns for name in column.names)

    def deflection(self, theta_x, theta_y, *parameters):
        """Reduced deflection alpha_x, alpha_y [arcsec], each shaped like theta_x (lens equation: Eq. 4)."""
        raise NotImplementedError(f"Mass profile {self.name!r} has no deflection.")

    def add_deflection(self, alpha, theta_x, theta_y, *parameters):
        """What other components deflect, `alpha` or None, and this one."""
        own = self.deflection(theta_x, theta_y, *parameters)
        return own if alpha is None else (alpha[0] + own[0], alpha[1] + own[1])

    def convergence(self, theta_x, theta_y, *parameters):
        """kappa, shaped like theta_x."""
        (xx, _), (_, yy) = self._slopes(theta_x, theta_y, parameters)
        return (xx + yy) / 2

    def shear(self, theta_x, theta_y, *parameters):
        """gamma1, gamma2 of the profile's own field, each shaped like theta_x."""
        (xx, xy), (yx, yy) = self._slopes(theta_x, theta_y, parameters)
        return (xx - yy) / 2, (xy + yx) / 2

    def potential(self, theta_x, theta_y, *parameters):
        """Lensing potential psi [arcsec^2], shaped like theta_x, with alpha = grad psi."""
        raise NotImplementedError(f"Mass profile {self.name!r} has no closed form of its potential.")

    def cut_radius(self, *parameters):
        """Radius [arcsec], a float, at which to look for the cut, the image of a singular centre; None for no cut.

        The arguments are floats here.
        """
        return None

    def _slopes(self, theta_x, theta_y, parameters):
        """d alpha_x / d (x, y) and d alpha_y / d (x, y)."""
        in_x = [self.deflection(theta_x + step, theta_y, *parameters) for step in (_STEP, -_STEP)]
        in_y = [self.deflection(theta_x, theta_y + step, *parameters) for step in (_STEP, -_STEP)]
        return [[(pair[0][i] - pair[1][i]) / (2 * _STEP) for pair in (in_x, in_y)] for i in (0, 1)]


def offset(theta_x, theta_y, x_lens, y_lens):
    """Position relative to a singular centre, with no gradient inside its softened core.

    There the derivative is 1 / CORE, which says something about our softening and nothing about the lens, and
    one pixel that happens to lie on the lens would drown the gradient of all others.
    """
    x, y = theta_x - x_lens, theta_y - y_lens
    at_centre = x**2 + y**2 < CORE**2
    x = ops.where(at_centre, ops.stop_gradient(x), x)
    y = ops.where(at_centre, ops.stop_gradient(y), y)
    return x, y


def elliptical(x, y, e1, e2):
    """w = z - e z* for z = x + i y, and |w| softened: (1 + q) |w| / 2 is the elliptical radius."""
    w_x, w_y = x - (e1 * x + e2 * y), y - (e2 * x - e1 * y)
    return w_x, w_y, ops.sqrt(w_x**2 + w_y**2 + CORE**2)


def complex_multiply(a_real, a_imag, b_real, b_imag):
    return a_real * b_real - a_imag * b_imag, a_real * b_imag + a_imag * b_real
