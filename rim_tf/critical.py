"""Critical curves, caustics and cuts of any lens, as lists of closed curves (x, y) [arcsec].

det A, the inverse of the magnification, is contoured at 0 on a grid, and each point of the contour is then moved onto
the curve by Newton's method. No closed form is needed, and any number of components may be at work.
"""

import functools

import contourpy
import numpy as np
from keras import ops

# Half the width of the grid, in the sum of the components' Einstein radii, and its points on a side: an even number, so
# that no point is at a centre that the grid is laid about, where det A has no value.
_REACH, _POINTS = 2.5, 140
# While a contour leaves the grid it is made twice as wide, so many times.
_WIDENINGS = 4
# Half the widths of finer grids about each component, in its Einstein radius: for radial curves and small deflectors.
_NEARER = (2.0, 0.12)
# Newton steps from the contour of a grid to the curve, and the distance over which det A is differenced [arcsec].
_NEWTON_STEPS, _STEP = 5, 1e-5
# A contour that does not end on a curve to this in det A was none: it ran around a singular centre.
_ON_CURVE = 1e-6
_ANGLES = 361


@functools.lru_cache(maxsize=64)
def critical_curves(lens):
    """Where the magnification is infinite, in the image plane.

    Args:
      lens: `LensParameters` or `CompositeLens`.

    Returns:
      List of (theta_x, theta_y), arrays [n] each, closed, the longest curve first.
    """
    components = _components(lens)
    reach = _REACH * sum(each[0] for each in components)
    box = [(min(each[i] for each in components) - reach, max(each[i] for each in components) + reach) for i in (1, 2)]
    curves, is_whole = _within(lens, box)
    for _ in range(_WIDENINGS):
        if is_whole:
            break
        box = [(low - (high - low) / 2, high + (high - low) / 2) for low, high in box]
        curves, is_whole = _within(lens, box)
    # A single isothermal lens has no more than that.
    several = len(components) > 1
    for theta_E, x, y, has_cut in components:
        for nearer in _NEARER if several or not has_cut else ():
            half = nearer * theta_E
            finer, _ = _within(lens, [(x - half, x + half), (y - half, y + half)])
            curves += [curve for curve in finer if not any(_same(curve, known) for known in curves)]
    return sorted(curves, key=lambda curve: -_length(curve))


def _within(lens, box):
    """The closed curves within a box, two pairs of limits, and whether no curve leaves it."""
    x, y = (np.linspace(*limits, _POINTS) for limits in box)
    contours = contourpy.contour_generator(x, y, _det(lens, x, y)).lines(0.0)
    closed = [line for line in contours if np.allclose(line[0], line[-1])]
    is_whole = len(closed) == len(contours)
    if not closed:
        return [], is_whole
    # All of them in the same calls.
    curves = _on_curve(lens, *np.concatenate(closed).T)
    each = [
        np.split(array, np.cumsum([len(line) for line in closed])[:-1]) for array in (*curves, _det_at(lens, *curves))
    ]
    return [(x, y) for x, y, det in zip(*each, strict=True) if np.abs(det).max() < _ON_CURVE], is_whole


def _length(curve):
    return np.hypot(*(np.diff(each) for each in curve)).sum()


def _same(curve, other):
    """Whether two polygons are of one curve: a point of the first lies between neighbours of the second."""
    distance = np.hypot(other[0] - curve[0][0], other[1] - curve[1][0]).min()
    spacing = np.hypot(*(np.diff(each) for each in other)).max()
    return distance < spacing and 0.9 < _length(curve) / _length(other) < 1.1


def caustics(lens):
    """The critical curves in the source plane: a list of (beta_x, beta_y), arrays [n] each, as `critical_curves`."""
    return [_ray_trace(lens, *curve) for curve in critical_curves(lens)]


def cuts(lens):
    """The images of singular centres in the source plane: a list of (beta_x, beta_y), arrays [n] each.

    A source within a cut has one image more. An isothermal component has a cut in place of a radial caustic.
    """
    curves, angle, first = [], np.linspace(0, 2 * np.pi, _ANGLES), 0
    for profile in lens.mass.profiles:
        parameters = lens.as_tuple()[first : first + len(profile.names)]
        first += len(profile.names)
        radius = profile.cut_radius(*parameters)
        if radius is not None:
            named = dict(zip(profile.names, parameters, strict=True))
            x, y = radius * np.cos(angle), radius * np.sin(angle)
            beta_x, beta_y = _ray_trace(lens, named["x_lens"] + x, named["y_lens"] + y)
            curves.append((beta_x - x, beta_y - y))  # as if it were at the centre, with the deflection beside it
    return curves


def _components(lens):
    """(theta_E, x, y, whether it has a cut) of every component that deflects about a centre."""
    found, first = [], 0
    for profile in lens.mass.profiles:
        named = dict(zip(profile.names, lens.as_tuple()[first : first + len(profile.names)], strict=True))
        first += len(profile.names)
        if {"theta_E", "x_lens", "y_lens"} <= set(named):
            has_cut = profile.cut_radius(*named.values()) is not None
            found.append((named["theta_E"], named["x_lens"], named["y_lens"], has_cut))
    return found


def _on_curve(lens, x, y):
    """The points of a contour, moved along the gradient of det A to where it is 0."""
    for _ in range(_NEWTON_STEPS):
        around_x = np.stack([x, x + _STEP, x - _STEP, x, x])
        around_y = np.stack([y, y, y, y + _STEP, y - _STEP])
        det, right, left, above, below = _det_at(lens, around_x.ravel(), around_y.ravel()).reshape(5, -1)
        in_x, in_y = (right - left) / (2 * _STEP), (above - below) / (2 * _STEP)
        steepness = in_x**2 + in_y**2
        step = det / np.where(steepness > 0, steepness, np.inf)
        x, y = x - step * in_x, y - step * in_y
    return x, y


def _det(lens, x, y):
    """det A on the grid of x and y, [len(y), len(x)]."""
    return _det_at(lens, *(each.ravel() for each in np.meshgrid(x, y))).reshape(len(y), len(x))


def _det_at(lens, x, y):
    return ops.convert_to_numpy(lens.mass.inverse_magnification(*_tensors(lens, x, y)))[0]


def _ray_trace(lens, x, y):
    return tuple(ops.convert_to_numpy(beta)[0] for beta in lens.mass.ray_trace(*_tensors(lens, x, y)))


def _tensors(lens, *positions):
    # The step of the differences needs float64; JAX gives float32 to those who have not asked for more.
    arrays = [np.asarray([each]) for each in (*positions, lens.as_tuple())]
    return [ops.convert_to_tensor(array, dtype="float64") for array in arrays]
