"""Singular isothermal ellipsoid plus external shear: deflection, convergence, potential, critical curves.

Every function takes positions theta_x, theta_y [arcsec], [batch, ...], and `lens` [batch, 7] with the columns
theta_E, e1, e2, x_lens, y_lens, gamma1, gamma2:

  * theta_E [arcsec]: Einstein radius on the intermediate axis (Kormann et al. 1994), so that
    kappa = theta_E / 2 / sqrt(q x'^2 + y'^2 / q), x' along the major axis.
  * (e1, e2) = (1 - q) / (1 + q) * (cos 2 phi, sin 2 phi): q minor over major axis of the convergence, phi the
    position angle of the major axis, anticlockwise from +x [rad].
  * x_lens, y_lens [arcsec]: centre of the ellipsoid.
  * gamma1, gamma2: external shear about the ORIGIN, psi = gamma1 / 2 (x^2 - y^2) + gamma2 x y.

The complex ellipticity e = e1 + i e2 enters derivatives only through analytic functions, so that everything here is
smooth through the round lens. The value of the deflection alone is found in the lens's own axes, whose angle is
undefined there and of no consequence.
"""

import numpy as np
from keras import ops

# Softening of the centre [arcsec]. It moves alpha by theta_E (CORE / r)^2 / 2: 1e-9 at a hundredth of a pixel.
CORE = 1e-7


def _columns(lens, like):
    """The seven parameters, each shaped [batch, 1, ...] to broadcast against the positions `like`."""
    shape = (-1,) + (1,) * (len(like.shape) - 1)
    return [ops.reshape(lens[:, i], shape) for i in range(7)]


def _offset(theta_x, theta_y, x_lens, y_lens):
    """Position relative to the lens, with no gradient inside the softened centre.

    There the derivative is 1 / CORE, which says something about our softening and nothing about the lens, and
    one pixel that happens to lie on the lens would drown the gradient of all others.
    """
    x, y = theta_x - x_lens, theta_y - y_lens
    at_centre = x**2 + y**2 < CORE**2
    x = ops.where(at_centre, ops.stop_gradient(x), x)
    y = ops.where(at_centre, ops.stop_gradient(y), y)
    return x, y


def _elliptical(x, y, e1, e2):
    """w = z - e z* for z = x + i y, and |w| softened: (1 + q) |w| / 2 is the elliptical radius."""
    w_x, w_y = x - (e1 * x + e2 * y), y - (e2 * x - e1 * y)
    return w_x, w_y, ops.sqrt(w_x**2 + w_y**2 + CORE**2)


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
    far = _complex_multiply(u_x * scale - f_x, u_y * scale - f_y, e1, e2)
    denominator = 2 * ops.where(near_round, 1.0, e2_modulus)

    # In the other branch t is set to 0, which keeps the series and its derivatives finite.
    e1, e2 = ops.where(near_round, e1, 0.0), ops.where(near_round, e2, 0.0)
    square = _complex_multiply(u_x, u_y, u_x, u_y)
    t = _complex_multiply(e1, -e2, *square)
    series = (0.0, 0.0)
    for n in range(_TERMS - 1, -1, -1):
        product = _complex_multiply(*t, *series)
        series = 1.0 / (2 * n + 3) - product[0], -product[1]
    series = _complex_multiply(*square, *series)
    near = _complex_multiply(u_x / 2, u_y / 2, series[0] + e1 * scale, series[1] + e2 * scale)
    return [ops.where(near_round, a, b / denominator) for a, b in zip(near, far, strict=True)]


def _unit_deflection_adjoint(x, y, e1, e2, up_x, up_y):
    """Gradients in x, y, e1 and e2 of the sum of up_x F_x + up_y F_y."""
    w_x, w_y, w = _elliptical(x, y, e1, e2)
    u_x, u_y = w_x / w, w_y / w
    f_x, f_y = _unit_deflection(x, y, e1, e2)
    # In position: a convergence, and a shear whose angle is the polar angle's.
    kappa = 0.5 / w
    r2 = x**2 + y**2 + CORE**2
    gamma1, gamma2 = kappa * (y**2 - x**2) / r2, -2 * kappa * x * y / r2
    in_x, in_y = (kappa + gamma1) * up_x + gamma2 * up_y, gamma2 * up_x + (kappa - gamma1) * up_y
    # Re(U* dF) = Re(G* de) with G = U (dF/de)* + U* dF/de*.
    first = _complex_multiply(up_x, up_y, u_x, u_y)
    scale = -0.5 / (1 - e1**2 - e2**2)
    second = _complex_multiply(up_x, -up_y, *_slope_in_conjugate(u_x, u_y, f_x, f_y, e1, e2))
    in_e1, in_e2 = scale * first[0] + second[0], scale * first[1] + second[1]
    return in_x, in_y, _sum_to(in_e1, e1), _sum_to(in_e2, e2)


def _complex_multiply(a_real, a_imag, b_real, b_imag):
    return a_real * b_real - a_imag * b_imag, a_real * b_imag + a_imag * b_real


def _sie_deflection(x, y, theta_E, e1, e2):
    """Deflection of the ellipsoid at (x, y) from its centre."""
    f_x, f_y = _unit_deflection(x, y, e1, e2)
    scale = theta_E * ops.sqrt(1 - e1**2 - e2**2)
    return scale * f_x, scale * f_y


def deflection(theta_x, theta_y, lens):
    """Reduced deflection alpha_x, alpha_y [arcsec], each shaped like theta_x (lens equation: Eq. 4).

    At the exact centre of the lens it is 0, the mean over directions, and so is its gradient.
    """
    theta_E, e1, e2, x_lens, y_lens, gamma1, gamma2 = _columns(lens, theta_x)
    x, y = _offset(theta_x, theta_y, x_lens, y_lens)
    alpha_x, alpha_y = _sie_deflection(x, y, theta_E, e1, e2)
    return (
        alpha_x + gamma1 * theta_x + gamma2 * theta_y,
        alpha_y + gamma2 * theta_x - gamma1 * theta_y,
    )


def ray_trace(theta_x, theta_y, lens):
    """Source-plane position beta = theta - alpha [arcsec] (Eq. 4), two tensors shaped like theta_x."""
    alpha_x, alpha_y = deflection(theta_x, theta_y, lens)
    return theta_x - alpha_x, theta_y - alpha_y


def convergence(theta_x, theta_y, lens):
    """kappa, shaped like theta_x; finite at the centre, where it is theta_E sqrt(1 - |e|^2) / (2 CORE)."""
    theta_E, e1, e2, x_lens, y_lens, _, _ = _columns(lens, theta_x)
    x, y = _offset(theta_x, theta_y, x_lens, y_lens)
    _, _, w = _elliptical(x, y, e1, e2)
    return theta_E * ops.sqrt(1 - e1**2 - e2**2) / (2 * w)


def potential(theta_x, theta_y, lens):
    """Lensing potential psi [arcsec^2], shaped like theta_x, with alpha = grad psi."""
    theta_E, e1, e2, x_lens, y_lens, gamma1, gamma2 = _columns(lens, theta_x)
    x, y = _offset(theta_x, theta_y, x_lens, y_lens)
    alpha_x, alpha_y = _sie_deflection(x, y, theta_E, e1, e2)
    # An isothermal potential is homogeneous of degree one, so Euler's theorem gives it from its gradient.
    sie = x * alpha_x + y * alpha_y
    return sie + gamma1 / 2 * (theta_x**2 - theta_y**2) + gamma2 * theta_x * theta_y


def magnification(theta_x, theta_y, lens):
    """Signed magnification mu = 1 / det(d beta / d theta), shaped like theta_x; finite at the critical curve."""
    _, _, _, x_lens, y_lens, gamma1, gamma2 = _columns(lens, theta_x)
    kappa = convergence(theta_x, theta_y, lens)
    x, y = _offset(theta_x, theta_y, x_lens, y_lens)
    r2 = x**2 + y**2 + CORE**2
    # Isothermal: psi = r f(phi), hence gamma = -kappa e^{2 i phi} with phi the polar angle about the lens. So
    # det A = (1 - kappa)^2 - |gamma|^2 is linear in kappa, which is written out: the squares would cancel.
    along = (gamma1 * (x**2 - y**2) + 2 * gamma2 * x * y) / r2
    det = 1 - gamma1**2 - gamma2**2 - 2 * kappa * (1 - along)
    tiny = 1e-12
    return 1 / ops.where(ops.abs(det) < tiny, tiny, det)


def critical_curve(lens, n_angles=360):
    """Tangential critical curve theta_x, theta_y [arcsec], each [batch, n_angles + 1], closed.

    Along a ray from the lens kappa = h / r and det A = 1 - |gamma|^2 - 2 kappa (1 - gamma . e^{2 i phi}), which
    vanishes once: no contouring. `ray_trace` takes it to the caustic.
    """
    unit_x, unit_y = _directions(lens, n_angles)
    theta_E, e1, e2, x_lens, y_lens, gamma1, gamma2 = _columns(lens, unit_x)
    _, _, w = _elliptical(unit_x, unit_y, e1, e2)
    h = theta_E * ops.sqrt(1 - e1**2 - e2**2) / (2 * w)
    along = gamma1 * (unit_x**2 - unit_y**2) + 2 * gamma2 * unit_x * unit_y
    r = 2 * h * (1 - along) / (1 - gamma1**2 - gamma2**2)
    return x_lens + r * unit_x, y_lens + r * unit_y


def cut(lens, n_angles=360):
    """The cut beta_x, beta_y [arcsec], each [batch, n_angles + 1]: image of the singular centre.

    A source inside the cut has one image more; an isothermal lens has this curve in place of a radial caustic.
    """
    unit_x, unit_y = _directions(lens, n_angles)
    theta_E, e1, e2, x_lens, y_lens, gamma1, gamma2 = _columns(lens, unit_x)
    alpha_x, alpha_y = _sie_deflection(unit_x, unit_y, theta_E, e1, e2)  # the same at every radius
    return (
        x_lens - alpha_x - (gamma1 * x_lens + gamma2 * y_lens),
        y_lens - alpha_y - (gamma2 * x_lens - gamma1 * y_lens),
    )


def _directions(lens, n_angles):
    """Unit vectors all the way round, each [batch, n_angles + 1], the last the same as the first."""
    angle = np.linspace(0.0, 2 * np.pi, n_angles + 1)[None, :]
    ones = ops.ones_like(lens[:, :1])
    return ones * ops.cast(np.cos(angle), lens.dtype), ones * ops.cast(np.sin(angle), lens.dtype)
