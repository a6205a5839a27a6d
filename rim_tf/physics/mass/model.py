"""A mass model: a sum of profiles, whose parameters are the named columns of one tensor `lens` [batch, columns]."""

import dataclasses
import importlib
import pathlib
import pkgutil

from keras import ops

from rim_tf.errors import InputError
from rim_tf.physics.mass.profile import PROFILES

# Whatever profile lies in this package is known, without a list that has to name it.
for _module in pkgutil.iter_modules([str(pathlib.Path(__file__).parent)]):
    if _module.name != "model":
        importlib.import_module(f"rim_tf.physics.mass.{_module.name}")

# Of a parameter in a batch, in whatever unit.
_FARTHEST = 1e6


@dataclasses.dataclass(frozen=True)
class MassModel:
    """Which profiles deflect the light, in order; two models of the same profiles are equal.

    Every function takes positions theta_x, theta_y [arcsec], [batch, ...], and `lens` [batch, columns].

    Args:
      types: names of profiles in `PROFILES`.

    Raises:
      InputError: no type, or an unknown one.
    """

    types: tuple[str, ...]

    def __post_init__(self):
        object.__setattr__(self, "types", tuple(self.types))
        if not self.types:
            raise InputError("A mass model has no component; it needs at least one.")
        for name in self.types:
            find_profile(name)

    @property
    def profiles(self):
        """The `Profile` of each component."""
        return [PROFILES[name] for name in self.types]

    @property
    def names(self):
        """Of the columns; a name that several components have gets the number of its component: "theta_E_2"."""
        plain = [(i, name) for i, profile in enumerate(self.profiles, 1) for name in profile.names]
        shared = {name for i, name in plain if any(name == other and i != j for j, other in plain)}
        return tuple(f"{name}_{i}" if name in shared else name for i, name in plain)

    @property
    def columns(self):
        """(kind of column, indices of its parameters) of every one, in order."""
        found, first = [], 0
        for profile in self.profiles:
            for column in profile.columns:
                indices = tuple(range(first, first + len(column.names)))
                found.append((column, indices))
                first += len(column.names)
        return found

    @property
    def size(self):
        """Number of columns."""
        return len(self.names)

    @property
    def radius(self):
        """Which column is theta_E, the first where there are several, whose names have numbers."""
        return next(i for i, name in enumerate(self.names) if name.startswith("theta_E"))

    # ------------------------------------------------------------------------------------------------- physics

    def deflection(self, theta_x, theta_y, lens):
        """Reduced deflection alpha_x, alpha_y [arcsec], each shaped like theta_x (lens equation: Eq. 4)."""
        alpha = None
        for profile, parameters in self._parts(theta_x, lens):
            alpha = profile.add_deflection(alpha, theta_x, theta_y, *parameters)
        return alpha

    def ray_trace(self, theta_x, theta_y, lens):
        """Source-plane position beta = theta - alpha [arcsec] (Eq. 4), two tensors shaped like theta_x."""
        alpha_x, alpha_y = self.deflection(theta_x, theta_y, lens)
        return theta_x - alpha_x, theta_y - alpha_y

    def convergence(self, theta_x, theta_y, lens):
        """kappa, shaped like theta_x."""
        return sum(p.convergence(theta_x, theta_y, *parameters) for p, parameters in self._parts(theta_x, lens))

    def shear(self, theta_x, theta_y, lens):
        """gamma1, gamma2, each shaped like theta_x."""
        each = [p.shear(theta_x, theta_y, *parameters) for p, parameters in self._parts(theta_x, lens)]
        return sum(gamma1 for gamma1, _ in each), sum(gamma2 for _, gamma2 in each)

    def potential(self, theta_x, theta_y, lens):
        """Lensing potential psi [arcsec^2], shaped like theta_x, with alpha = grad psi."""
        return sum(p.potential(theta_x, theta_y, *parameters) for p, parameters in self._parts(theta_x, lens))

    def inverse_magnification(self, theta_x, theta_y, lens):
        """det(d beta / d theta), shaped like theta_x: 1 / mu, 0 on critical curves, below 0 where parity is turned."""
        kappa = self.convergence(theta_x, theta_y, lens)
        gamma1, gamma2 = self.shear(theta_x, theta_y, lens)
        # (1 - kappa)^2 - gamma^2 as a product, since near a singular centre the squares would cancel.
        gamma = ops.sqrt(gamma1**2 + gamma2**2 + 1e-30)
        return (1 - kappa - gamma) * (1 - kappa + gamma)

    def _parts(self, like, lens):
        """Each profile with its parameters, shaped [batch, 1, ...] to broadcast against the positions `like`."""
        shape = (-1,) + (1,) * (len(like.shape) - 1)
        first = 0
        for profile in self.profiles:
            n = len(profile.names)
            yield profile, [ops.reshape(lens[:, i], shape) for i in range(first, first + n)]
            first += n

    # ------------------------------------------------------------------------------------ numbers without bounds

    def to_real(self, lens):
        """The inverse of `from_real`: [batch, columns] -> [batch, columns]."""
        return self._map("to_real", lens)

    def from_real(self, u):
        """Any real numbers -> a lens within its bounds: [batch, columns] -> [batch, columns]."""
        return self._map("from_real", u)

    def log_slope(self, u):
        """log |det d lens / d u|, [batch]: what a density in the lens gains as one in u."""
        return sum(column.log_slope(*(u[:, i] for i in indices)) for column, indices in self.columns)

    def _map(self, direction, values):
        mapped = []
        for column, indices in self.columns:
            mapped += getattr(column, direction)(*(values[:, i] for i in indices))
        return ops.stack(mapped, axis=1)

    def mirrored(self, *axes):
        """Sign that each parameter gets, as it is or without bounds, where these axes, "x" or "y", are turned round."""
        signs = (1,) * self.size
        for axis in axes:
            turned = [sign for column, _ in self.columns for sign in column.mirrored(axis)]
            signs = tuple(one * other for one, other in zip(signs, turned, strict=True))
        return signs

    def check(self, values):
        """Raises InputError where one of the finite floats `values`, in the order of `names`, is out of range."""
        for column, indices in self.columns:
            column.check(*(values[i] for i in indices))

    def allows(self, lens):
        """Which lenses `check` would pass, boolean [batch]; nothing may be farther than float32 can square."""
        allowed = ops.all(ops.abs(lens) < _FARTHEST, axis=1)
        for column, indices in self.columns:
            allowed = allowed & column.allows(*(lens[:, i] for i in indices))
        return allowed


def find_profile(name):
    """The `Profile` of that name; InputError where there is none."""
    if name not in PROFILES:
        raise InputError(f"There is no mass profile {name!r}; known are {', '.join(sorted(PROFILES))}.")
    return PROFILES[name]


SIE_SHEAR = MassModel(("sie", "shear"))
"""The paper's: columns theta_E, e1, e2, x_lens, y_lens, gamma1, gamma2."""
