"""Surface brightness of smooth galaxies: Sersic profiles and Gaussians, for mocks, procedural galaxies and lens light.

Only Python's operators are used, and an `exp` that the caller hands in, so that NumPy arrays and the tensors of every
backend go through the same lines. Ellipticity is as that of a lens: (e1, e2) = (1 - q) / (1 + q) (cos 2 phi,
sin 2 phi), with the axis ratio q and the angle phi of the major axis, anticlockwise from +x.
"""


def elliptical_radius2(x, y, e1, e2):
    """Squared radius that is constant on ellipses: q x'^2 + y'^2 / q, with x' along the major axis.

    An ellipse of radius r encloses pi r^2, whatever its shape. With z = x + i y it is |z - e z*|^2 / (1 - |e|^2), in
    which there is no angle to go round.

    Args:
      x: position relative to the centre [any length]; all arguments broadcast.
      y: likewise.
      e1: ellipticity, below 1 in modulus.
      e2: likewise.

    Returns:
      [that length squared], of the broadcast shape.
    """
    m2 = e1**2 + e2**2
    return ((1 + m2) * (x**2 + y**2) - 2 * e1 * (x**2 - y**2) - 4 * e2 * x * y) / (1 - m2)


def sersic(radius2, half_light_radius, index, exp):
    """A Sersic profile over its value at the half-light radius: exp(-b ((r / r50)^(1 / index) - 1)).

    b is what makes r50 hold half of the light: its asymptotic series of Ciotti & Bertin (1999, astro-ph/9911078) to
    the third term, within 0.4 % of the exact one for an index of 0.7, and less above it.

    Args:
      radius2: squared radius, as `elliptical_radius2` gives it; a square added to it softens the cusp at the centre.
      half_light_radius: r50, of the ellipse that holds half of the light [length of the radius].
      index: 1 is an exponential disc, 4 de Vaucouleurs' law.
      exp: np.exp, keras.ops.exp or the like.

    Returns:
      Of the arguments' broadcast shape.
    """
    b = 2 * index - 1 / 3 + 4 / (405 * index)
    return exp(b * (1 - (radius2 / half_light_radius**2) ** (0.5 / index)))


def gaussian(x, y, sigma, e1, e2, exp, blur_sigma=0.0):
    """An elliptical Gaussian after a round Gaussian blur; before it exp(-elliptical_radius2 / (2 sigma^2)).

    The blur adds its variance to both axes and keeps the flux, 2 pi sigma^2.

    Args:
      x: position relative to the centre [any length]; all arguments broadcast.
      y: likewise.
      sigma: standard deviation on the intermediate axis [that length].
      e1: ellipticity, below 1 in modulus.
      e2: likewise.
      exp: np.exp, keras.ops.exp or the like.
      blur_sigma: standard deviation of the blur on one axis [that length].

    Returns:
      Of the arguments' broadcast shape.
    """
    # The covariance is the inverse of the quadratic form in `elliptical_radius2`, times sigma^2.
    m2 = e1**2 + e2**2
    xx = sigma**2 * (1 + m2 + 2 * e1) / (1 - m2) + blur_sigma**2
    yy = sigma**2 * (1 + m2 - 2 * e1) / (1 - m2) + blur_sigma**2
    xy = sigma**2 * 2 * e2 / (1 - m2)
    determinant = xx * yy - xy**2
    return sigma**2 / determinant**0.5 * exp(-(yy * x**2 - 2 * xy * x * y + xx * y**2) / (2 * determinant))
