"""The singular isothermal ellipsoid.

Its complex ellipticity e = e1 + i e2 enters derivatives only through analytic functions, so that everything here is
smooth through the round lens. The value of the deflection alone is found in the lens's own axes, whose angle is
undefined there and of no consequence.
"""

from keras import ops

from rim_tf.physics.mass.columns import CENTRE, ELLIPTICITY, THETA_E
from rim_tf.physics.mass.profile import CORE, Profile, complex_multiply, elliptical, offset


class SIE(Profile):
    """Singular isothermal ellipsoid.

    Parameters, each [batch, 1, ...]:
      theta_E: Einstein radius on the intermediate axis (Kormann et al. 1994) [arcsec], so that
        kappa = theta_E / 2 / sqrt(q x'^2 + y'^2 / q), x' along the major axis.
      e1: with e2, (1 - q) / (1 + q) * (cos 2 phi, sin 2 phi); q minor over major axis of the convergence, phi the
        position angle of the major axis, anticlockwise from +x [rad].
      e2: see e1.
      x_lens: centre [arcsec].
      y_lens: centre [arcsec].
    """

    name = "sie"
    columns = (THETA_E, ELLIPTICITY, *CENTRE)

    def deflection(self, theta_x, theta_y, theta_E, e1, e2, x_lens, y_lens):
        """As `Profile.deflection`. At the exact centre it is 0, the mean over directions, and so is its gradient."""
        return _deflection(*offset(theta_x, theta_y, x_lens, y_lens), theta_E, e1, e2)

    def convergence(self, theta_x, theta_y, theta_E, e1, e2, x_lens, y_lens):
        """As `Profile.convergence`; finite at the centre, where it is theta_E sqrt(1 - |e|^2) / (2 CORE)."""
        _, _, w = elliptical(*offset(theta_x, theta_y, x_lens, y_lens), e1, e2)
        return theta_E * ops.sqrt(1 - e1**2 - e2**2) / (2 * w)

    def shear(self, theta_x, theta_y, theta_E, e1, e2, x_lens, y_lens):
        """As `Profile.shear`: psi = r f(phi), hence gamma = -kappa e^{2 i phi}, phi the polar angle about the lens."""
        kappa = self.convergence(theta_x, theta_y, theta_E, e1, e2, x_lens, y_lens)
        x, y = offset(theta_x, theta_y, x_lens, y_lens)
        r2 = x**2 + y**2 + CORE**2
        return -kappa * (x**2 - y**2) / r2, -2 * kappa * x * y / r2

    def potential(self, theta_x, theta_y, theta_E, e1, e2, x_lens, y_lens):
        """As `Profile.potential`, which is homogeneous of degree one: Euler's theorem gives it from its gradient."""
        x, y = offset(theta_x, theta_y, x_lens, y_lens)
        alpha_x, alpha_y = _deflection(x, y, theta_E, e1, e2)
        return x * alpha_x + y * alpha_y

    def cut_radius(self, theta_E, *others):
        """A ray near the centre lands on the cut whatever its distance, so any small one will do."""
        return 1e-4 * theta_E


def _deflection(x, y, theta_E, e1, e2):
    """At (x, y) from the centre."""
    f_x, f_y = _unit_deflection(x, y, e1, e2)
    scale = theta_E * ops.sqrt(1 - e1**2 - e2**2)
    return scale * f_x, scale * f_y


def _sum_to(gradient, like):
    """`gradient` [batch, ...] summed to the shape of `like`, [batch, 1, ...] or [1, 1, ...]."""
    gradient = ops.sum(gradient, axis=tuple(range(1, len(gradient.shape))), keepdims=True)
    return ops.sum(gradient, axis=0, keepdims=True) if like.shape[0] == 1 else gradient


def _unit_deflection(x, y, e1, e2):
    """F = alpha / (theta_E sqrt(1 - |e|^2)), two tensors shaped like x and y, [batch, ...]; e1, e2 are [batch, 1, ...].

    Tessore & Metcalf (2015, A&A 580, A79), Eqs. 23-29, for slope t = 1: F = arctan(sqrt(e* w / w*)) / sqrt(e*), their
    f e^{2 i phi} being our e. Its value is found in the lens's own frame, where real and imaginary part separate. Its
    derivative is not taken through that frame, whose angle no round lens has, but is worked out by hand: with
    u = w / |w|,
      dF/dz = 1 / (2 |w|), dF/dz* = -(z / z*) / (2 |w|), dF/de = -u* / (2 (1 - |e|^2)), and dF/de* below.
    """

    # Without the arguments, `grad` would hold on to tensors of JAX's compiler, which it may not.
    @ops.custom_gradient
    def unit_deflection(x, y, e1, e2):
        def grad(*upstream):
            up_x, up_y = upstream if len(upstream) == 2 else upstream[0]  # TensorFlow spreads the pair, JAX does not
            return _unit_deflection_adjoint(x, y, e1, e2, up_x, up_y)

        return _in_own_frame(x, y, e1, e2), grad

    return unit_deflection(x, y, e1, e2)


def _in_own_frame(x, y, e1, e2):
    """The value of F: arctan(k x' / |w|) / k along the major axis, arctanh(k y' / |w|) / k across; k = 2 sqrt(|e|).

    Both are taken at half the angle, tan(a / 2) = tan a / (1 + sec a), which costs no root since
    |w|^2 +- (k x')^2 are squares, and keeps away from the ends where arctan is flat and arctanh steep.
    """
    e = ops.sqrt(e1**2 + e2**2 + 1e-30)  # for a round lens any frame is its own
    along, across = ops.where(e1 >= 0, e + e1, e2), ops.where(e1 >= 0, e2, e - e1)
    norm = ops.sqrt(along**2 + across**2)
    cos, sin = along / norm, across / norm
    k = ops.maximum(2 * ops.sqrt(e), 1e-6)  # below that arctan(k t) / k is t, and arctanh too
    x, y = cos * x + sin * y, cos * y - sin * x
    x2, y2 = x**2, y**2
    z = ops.sqrt(x2 + y2 + CORE**2)
    w = ops.sqrt((1 - e) ** 2 * x2 + (1 + e) ** 2 * y2 + CORE**2)
    x = _arctan(k * x / (w + (1 + e) * z)) * (2 / k)
    tanh = k * y / (w + (1 - e) * z)
    y = ops.log1p(2 * tanh / (1 - tanh)) / k  # 2 arctanh / k
    return cos * x - sin * y, sin * x + cos * y


def _arctan(v):
    """arctan for |v| <= 1: halving the angle twice brings |v| below 0.2, where 11 terms are exact to rounding.

    Keras on JAX has arctan and arctanh in float32 only, and XLA's own arctan takes ten times as long.
    """
    for _ in range(2):
        v = v / (1 + ops.sqrt(1 + v**2))
    v2 = v**2
    series = 1 / 21
    for n in range(9, -1, -1):
        series = 1 / (2 * n + 1) - v2 * series
    return 4 * v * series


# Ellipticity below which dF/de* is summed as a series, and the terms that make it exact to rounding.
_ROUND, _TERMS = 0.05, 11


def _slope_in_conjugate(u_x, u_y, f_x, f_y, e1, e2):
    """dF/de* = (u / (1 - |e|^2) - F) / (2 e*).

    Where e is small that is 0 / 0, and becomes (u / 2) (e / (1 - |e|^2) + u^2 k(t)), k(t) = (1 - f(t)) / t =
    1/3 - t/5 + t^2/7 - ..., with t = e* u^2, f(t) = arctan(sqrt t) / sqrt t and F = u f(t).
    """
    e2_modulus = e1**2 + e2**2
    near_round = e2_modulus < _ROUND**2
    scale = 1 / (1 - e2_modulus)
    far = complex_multiply(u_x * scale - f_x, u_y * scale - f_y, e1, e2)
    denominator = 2 * ops.where(near_round, 1.0, e2_modulus)

    # In the other branch t is set to 0, which keeps the series and its derivatives finite.
    e1, e2 = ops.where(near_round, e1, 0.0), ops.where(near_round, e2, 0.0)
    square = complex_multiply(u_x, u_y, u_x, u_y)
    t = complex_multiply(e1, -e2, *square)
    series = (0.0, 0.0)
    for n in range(_TERMS - 1, -1, -1):
        product = complex_multiply(*t, *series)
        series = 1.0 / (2 * n + 3) - product[0], -product[1]
    series = complex_multiply(*square, *series)
    near = complex_multiply(u_x / 2, u_y / 2, series[0] + e1 * scale, series[1] + e2 * scale)
    return [ops.where(near_round, a, b / denominator) for a, b in zip(near, far, strict=True)]


def _unit_deflection_adjoint(x, y, e1, e2, up_x, up_y):
    """Gradients in x, y, e1 and e2 of the sum of up_x F_x + up_y F_y."""
    w_x, w_y, w = elliptical(x, y, e1, e2)
    u_x, u_y = w_x / w, w_y / w
    f_x, f_y = _unit_deflection(x, y, e1, e2)
    # In position: a convergence, and a shear whose angle is the polar angle's.
    kappa = 0.5 / w
    r2 = x**2 + y**2 + CORE**2
    gamma1, gamma2 = kappa * (y**2 - x**2) / r2, -2 * kappa * x * y / r2
    in_x, in_y = (kappa + gamma1) * up_x + gamma2 * up_y, gamma2 * up_x + (kappa - gamma1) * up_y
    # Re(U* dF) = Re(G* de) with G = U (dF/de)* + U* dF/de*.
    first = complex_multiply(up_x, up_y, u_x, u_y)
    scale = -0.5 / (1 - e1**2 - e2**2)
    second = complex_multiply(up_x, -up_y, *_slope_in_conjugate(u_x, u_y, f_x, f_y, e1, e2))
    in_e1, in_e2 = scale * first[0] + second[0], scale * first[1] + second[1]
    return in_x, in_y, _sum_to(in_e1, e1), _sum_to(in_e2, e2)
