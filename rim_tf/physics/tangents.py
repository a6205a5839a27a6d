"""How the model image changes with the lens: the columns of d(A s) / d u, in coordinates without bounds.

By the chain rule the slopes of the source where the rays land times how far the rays move, then blurred: seven forward
derivatives for a SIE with shear, without a derivative of the mass profile, which may be any. With them a step of Gauss
and Newton's method in the lens costs about as much as seven model images.
"""

from keras import ops

from rim_tf.grids import PixelGrid
from rim_tf.physics.imaging import Imaging
from rim_tf.physics.lensing import LensingOperator

# How far a coordinate is moved to see the rays move, in units of its `step`: rounding in float32 is a ten-thousandth.
_DIFFERENCE = 0.1


class Tangents:
    """The derivatives of the images of a batch of systems.

    Args:
      inputs: as in `rim_tf.physics.imaging.imaging_problem`; neither lens nor data are looked at.
      source_shape: likewise.
      mass: `MassModel`.

    Attributes:
      image_grid: `PixelGrid` of the images.
      source_grid: of the sources.
    """

    def __init__(self, inputs, source_shape, mass):
        self.mass = mass
        scale, source_scale = (ops.convert_to_tensor(inputs[name]) for name in ("pixel_scale", "source_pixel_scale"))
        _, rows, columns = ops.shape(inputs["image"])
        self.image_grid = PixelGrid(rows, columns, scale)
        self.source_grid = PixelGrid(*source_shape, source_scale)
        self._theta = self.image_grid.coordinates()
        # The same for every column, so that all of a batch are lensed and blurred in one call.
        self._thetas = [self._repeated(theta) for theta in self._theta]
        self._source_grids = PixelGrid(*source_shape, self._repeated(source_scale))
        grids = PixelGrid(rows, columns, self._repeated(scale))
        self._instrument = Imaging(self._repeated(ops.convert_to_tensor(inputs["psf"])), grids)

    def _repeated(self, values):
        return ops.repeat(values, self.mass.size, axis=0)

    def lensing(self, lens):
        """`LensingOperator` of lenses [batch, parameters]."""
        landing = self.source_grid.pixel_of(*self.mass.ray_trace(*self._theta, lens))
        return LensingOperator(*landing, self.source_grid.rows, self.source_grid.columns)

    def __call__(self, source, u, lensing):
        """[batch, parameters, rows, columns], in the units of the source.

        Args:
          source: [batch, n, m].
          u: of the lenses, [batch, parameters].
          lensing: of these lenses.
        """
        n, (batch, rows, columns) = self.mass.size, ops.shape(lensing.landing[0])
        difference = _DIFFERENCE * self.steps(u)
        moved = u[:, None] + difference[:, :, None] * ops.eye(n, dtype=u.dtype)
        lenses = self.mass.from_real(ops.reshape(moved, (-1, n)))
        there = self._source_grids.pixel_of(*self.mass.ray_trace(*self._thetas, lenses))
        sky = 0.0
        for before, after, slope in zip(lensing.landing, there, lensing.slopes(source), strict=True):
            # A ray that passes the singular centre of a profile jumps, which is no slope.
            moved = ops.clip(ops.reshape(after, (batch, n, rows, columns)) - before[:, None], -1.0, 1.0)
            sky = sky + slope[:, None] * moved / difference[:, :, None, None]
        blurred = self._instrument.forward(ops.reshape(sky, (batch * n, rows, columns)))
        return ops.reshape(blurred, (batch, n, rows, columns))

    def steps(self, u):
        """What a careful first step in each coordinate is, [batch, parameters]."""
        radius = self.mass.radius
        theta_E = self.mass.from_real(u)[:, radius : radius + 1]
        sizes = [
            c.step * (theta_E if c.of_theta_E else ops.ones_like(theta_E)) for c, i in self.mass.columns for _ in i
        ]
        return ops.concatenate(sizes, axis=1)

    def projected(self, tangents, lensing, weight, bound, n):
        """Tangents less what a change of the source could do as well, about: n steps of SIRT towards it.

        What is left says how well the lens is known when the source is not (variable projection, Golub & Pereyra 1973).

        Args:
          tangents: [batch, parameters, rows, columns].
          lensing: of the lenses.
          weight: inverse variances, [batch, rows, columns].
          bound: `Problem.curvature_bound` of that weight, [batch, n, m].
          n: number of steps.

        Returns:
          Shaped like the tangents.
        """
        shape = ops.shape(tangents)
        columns = ops.reshape(tangents, (-1, *shape[2:]))
        lensing = LensingOperator(*map(self._repeated, lensing.landing), *lensing.shape[1:])
        weight, bound = self._repeated(weight), self._repeated(bound)
        for _ in range(n):
            source = lensing.adjoint(self._instrument.adjoint(weight * columns)) / bound
            columns = columns - self._instrument.forward(lensing.forward(source))
        return ops.reshape(columns, shape)
