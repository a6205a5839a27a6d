"""Singular isothermal ellipsoid plus external shear: deflection, convergence, potential, critical curves.

Every function takes positions theta_x, theta_y [arcsec], [batch, ...], and `lens` [batch, 7] with the columns
theta_E, e1, e2, x_lens, y_lens, gamma1, gamma2:

  * theta_E [arcsec]: Einstein radius on the intermediate axis (Kormann et al. 1994), so that
    kappa = theta_E / 2 / sqrt(q x'^2 + y'^2 / q), x' along the major axis.
  * (e1, e2) = (1 - q) / (1 + q) * (cos 2 phi, sin 2 phi): q minor over major axis of the convergence, phi the
    position angle of the major axis, anticlockwise from +x [rad].
  * x_lens, y_lens [arcsec]: centre of the ellipsoid.
  * gamma1, gamma2: external shear about the ORIGIN, psi = gamma1 / 2 (x^2 - y^2) + gamma2 x y.

The complex ellipticity e = e1 + i e2 enters only through analytic functions, so that everything here is smooth
through the round lens: no rotation into the lens's own axes, whose angle is undefined there.
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


def _complex_multiply(a_real, a_imag, b_real, b_imag):
    return a_real * b_real - a_imag * b_imag, a_real * b_imag + a_imag * b_real


def _arctan_ratio(t_real, t_imag):
    """f(t) = arctan(sqrt t) / sqrt t for complex t, |t| < 1; analytic, and 1 at t = 0.

    Halving the angle, f(t) = f(t h^2) 2 h with h = 1 / (1 + sqrt(1 + t)), three times brings |t| below 0.06 (for
    q down to 0.05), where nine terms of the series are exact to rounding. 1 + t keeps to the right half-plane, so
    nothing branches, and the gradient is as smooth as the value. (Keras on JAX has arctan2 in float32 only.)
    """
    scale_real, scale_imag = ops.ones_like(t_real), ops.zeros_like(t_real)
    for _ in range(3):
        modulus = ops.sqrt((1 + t_real) ** 2 + t_imag**2)
        root_real = ops.sqrt((modulus + 1 + t_real) / 2)
        root_imag = t_imag / (2 * root_real)
        denominator = (1 + root_real) ** 2 + root_imag**2
        h_real, h_imag = (1 + root_real) / denominator, -root_imag / denominator
        scale_real, scale_imag = _complex_multiply(scale_real, scale_imag, 2 * h_real, 2 * h_imag)
        t_real, t_imag = _complex_multiply(t_real, t_imag, *_complex_multiply(h_real, h_imag, h_real, h_imag))
    series_real, series_imag = ops.zeros_like(t_real), ops.zeros_like(t_real)
    for n in range(8, -1, -1):  # sum over n of (-t)^n / (2 n + 1), by Horner
        product_real, product_imag = _complex_multiply(t_real, t_imag, series_real, series_imag)
        series_real, series_imag = 1.0 / (2 * n + 1) - product_real, -product_imag
    return _complex_multiply(scale_real, scale_imag, series_real, series_imag)


def _sie_deflection(x, y, theta_E, e1, e2):
    """Deflection of the ellipsoid at (x, y) from its centre.

    Tessore & Metcalf (2015, A&A 580, A79), Eqs. 23-29, for slope t = 1: their angular series is that of the
    arctangent, and their f e^{2 i phi} our e, which turns the rotation into a product:
    alpha = theta_E sqrt(1 - |e|^2) u arctan(sqrt t) / sqrt t, u = w / |w|, t = e* u^2.
    """
    w_x, w_y, w = _elliptical(x, y, e1, e2)
    u_x, u_y = w_x / w, w_y / w
    u2_real, u2_imag = u_x**2 - u_y**2, 2 * u_x * u_y
    f_real, f_imag = _arctan_ratio(e1 * u2_real + e2 * u2_imag, e1 * u2_imag - e2 * u2_real)
    scale = theta_E * ops.sqrt(1 - e1**2 - e2**2)
    alpha_x, alpha_y = _complex_multiply(u_x, u_y, f_real, f_imag)
    return scale * alpha_x, scale * alpha_y


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
