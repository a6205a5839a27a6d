"""The elliptical power law: like the isothermal ellipsoid, but its density falls as steeply as it likes.

Tessore & Metcalf (2015, A&A 580, A79), their t being slope - 1. As in `isothermal`, the complex ellipticity enters only
through analytic functions, so that all is smooth through the round lens.
"""

from keras import ops

from rim_tf.physics.mass.columns import CENTRE, ELLIPTICITY, THETA_E, Interval
from rim_tf.physics.mass.profile import CORE, Profile, complex_multiply, elliptical, offset

# Levels of the continued fraction: rounding error for |e| up to 0.6 (q of 0.25), 1e-7 up to 0.9.
_LEVELS = 24
_CUT = 0.003


class PowerLaw(Profile):
    """Elliptical power law.

    Parameters, each [batch, 1, ...]:
      theta_E: Einstein radius on the intermediate axis [arcsec], so that kappa =
        (3 - slope) / 2 (theta_E / sqrt(q x'^2 + y'^2 / q))^(slope - 1), x' along the major axis.
      slope: of the three-dimensional density, rho ~ r^-slope; 2 is isothermal.
      e1: with e2, as of `SIE`.
      e2: see e1.
      x_lens: centre [arcsec].
      y_lens: centre [arcsec].
    """

    name = "power_law"
    columns = (THETA_E, Interval("slope", low=1.1, high=2.9, default=2.0, step=0.02), ELLIPTICITY, *CENTRE)

    def deflection(self, theta_x, theta_y, theta_E, slope, e1, e2, x_lens, y_lens):
        """As `Profile.deflection`."""
        return _deflection(*offset(theta_x, theta_y, x_lens, y_lens), theta_E, slope, e1, e2)

    def convergence(self, theta_x, theta_y, theta_E, slope, e1, e2, x_lens, y_lens):
        """As `Profile.convergence`; finite at the softened centre."""
        x, y = offset(theta_x, theta_y, x_lens, y_lens)
        _, _, w = elliptical(x, y, e1, e2)
        return (3 - slope) / 2 * _ratio(w, theta_E, e1, e2) ** (slope - 1)

    def shear(self, theta_x, theta_y, theta_E, slope, e1, e2, x_lens, y_lens):
        """As `Profile.shear`: alpha is homogeneous of degree 2 - slope, z kappa + z* gamma = (2 - slope) alpha."""
        x, y = offset(theta_x, theta_y, x_lens, y_lens)
        kappa = self.convergence(theta_x, theta_y, theta_E, slope, e1, e2, x_lens, y_lens)
        alpha_x, alpha_y = _deflection(x, y, theta_E, slope, e1, e2)
        r2 = x**2 + y**2 + CORE**2
        real, imag = (2 - slope) * alpha_x - x * kappa, (2 - slope) * alpha_y - y * kappa
        real, imag = complex_multiply(real, imag, x, y)
        return real / r2, imag / r2

    def potential(self, theta_x, theta_y, theta_E, slope, e1, e2, x_lens, y_lens):
        """As `Profile.potential`: homogeneous of degree 3 - slope, so Euler's theorem gives it from its gradient."""
        x, y = offset(theta_x, theta_y, x_lens, y_lens)
        alpha_x, alpha_y = _deflection(x, y, theta_E, slope, e1, e2)
        return (x * alpha_x + y * alpha_y) / (3 - slope)

    def cut_radius(self, theta_E, slope, *others):
        """Only the isothermal centre has a cut: a shallower one has a radial caustic instead, a steeper one neither.

        As near to isothermal as _CUT the two are the same to a per cent, and the radial curve is too small to be found.
        """
        return 1e-4 * theta_E if abs(slope - 2) < _CUT else None


def _ratio(w, theta_E, e1, e2):
    """theta_E sqrt(q) over the elliptical radius (1 + q) |w| / 2, that is, theta_E sqrt(1 - |e|^2) / |w|."""
    return theta_E * ops.sqrt(1 - e1**2 - e2**2) / w


def _deflection(x, y, theta_E, slope, e1, e2):
    """At (x, y) from the centre (their Eqs. 13 and 22): with u = w / |w| and b = theta_E sqrt(q),

    alpha = 2 b / (1 + q) (b / R)^(t - 1) u F(-e* u^2), F(z) = 2F1(1, t / 2; 2 - t / 2; z).
    """
    w_x, w_y, w = elliptical(x, y, e1, e2)
    u_x, u_y = w_x / w, w_y / w
    square = complex_multiply(u_x, u_y, u_x, u_y)
    z = complex_multiply(-e1, e2, *square)
    f = complex_multiply(u_x, u_y, *_hypergeometric(*z, slope - 1))
    # 2 b / (1 + q) is theta_E sqrt(1 - |e|^2), as in the ratio.
    scale = _ratio(w, theta_E, e1, e2) ** (slope - 2) * theta_E * ops.sqrt(1 - e1**2 - e2**2)
    return scale * f[0], scale * f[1]


def _hypergeometric(z_real, z_imag, t):
    """2F1(1, t / 2; 2 - t / 2; z) by Gauss's continued fraction, which converges faster than the series: each level
    gains a factor |1 - sqrt(1 - z)| / |1 + sqrt(1 - z)|, 0.17 where the series has |z| = 0.5."""
    b, c = t / 2, 2 - t / 2
    real, imag = ops.ones_like(z_real), ops.zeros_like(z_imag)
    for level in range(_LEVELS, 0, -1):
        m = level // 2
        if level % 2:
            k = (b + m) * (c - 1 + m) / ((c + 2 * m - 1) * (c + 2 * m)) if m else b / c
        else:
            k = m * (c - b - 1 + m) / ((c + 2 * m - 2) * (c + 2 * m - 1))
        # 1 / (1 - k z g)
        below_real, below_imag = complex_multiply(z_real, z_imag, real, imag)
        below_real, below_imag = 1 - k * below_real, -k * below_imag
        norm = below_real**2 + below_imag**2
        real, imag = below_real / norm, -below_imag / norm
    return real, imag
