"""The estimator: a network that finds the lens in an image (Section 3), as a posterior of the mass parameters.

It has no scale of its own, as the RIM has none: lengths are fractions of half the field, brightness is a fraction of
the image's peak. The lens's own light may be in the image or not, as in the images that it was trained on.
"""

import dataclasses

import keras
from keras import ops

from rim_tf.config import EstimatorConfig
from rim_tf.grids import PixelGrid
from rim_tf.models import mixture
from rim_tf.models.networks import AlexNet, ResidualNetwork
from rim_tf.physics.imaging import image_peak
from rim_tf.physics.likelihood import inverse_variance
from rim_tf.physics.mass.columns import Disc, Interval, Positive, Real
from rim_tf.physics.mass.model import MassModel
from rim_tf.physics.psf import psf_width
from rim_tf.physics.resampling import resample

# Centre and spread of each kind of parameter in coordinates without bounds, lengths in halves of the field: about what
# lenses have, so that a network that puts out numbers near 0 is right from the start. They bound nothing.
_USUAL = {Positive: (-0.8, 0.5), Real: (0.0, 0.1), Interval: (0.0, 0.5), Disc: (0.0, 0.15)}


def usual(mass, half_field):
    """Centre and spread of each parameter in coordinates without bounds, lengths in arcsec, [batch, parameters] each.

    Args:
      mass: `MassModel`.
      half_field: half the width of the images, [batch] [arcsec].
    """
    centres, spreads, one = [], [], ops.ones_like(half_field)
    for column, indices in mass.columns:
        centre, spread = _USUAL[type(column)]
        factor = one
        if column.unit == "arcsec":
            if isinstance(column, Positive):  # the logarithm of a length
                centre = centre + ops.log(half_field)
            elif type(column) is Real:
                factor = half_field
            else:
                raise ValueError(f"{column.names} are lengths within bounds, which no field gives a unit.")
        centres += [centre * one] * len(indices)
        spreads += [spread * factor] * len(indices)
    return ops.stack(centres, axis=1), ops.stack(spreads, axis=1)


class View:
    """An image as the network sees it: in the middle of the frame, on the network's own grid, in units of its peak.

    Args:
      inputs: dictionary of tensors `image`, `noise_rms`, `mask`, `psf` and `pixel_scale`, as
        `rim_tf.systems.IMAGING` describes them.
      pixels: side of the network's grid.
      field: side of the square that it sees, [batch] [arcsec]; None for the shorter side of the frame. Of a field
        beyond the frame it sees what there is, the rest as masked.

    Attributes, [batch, pixels, pixels] but where noted:
      signal: the image in units of its peak.
      weight: its inverse variance in that unit, 0 where nothing is known.
      share: of each pixel that is not masked.
      width: of the PSF in pixels of this grid, [batch].
      step: pixels of this grid over those of the frame, [batch].
      half_field: [batch] [arcsec].
    """

    def __init__(self, inputs, pixels, field=None):
        image, noise_rms, psf, scale = (
            ops.convert_to_tensor(inputs[name]) for name in ("image", "noise_rms", "psf", "pixel_scale")
        )
        mask = ops.cast(inputs["mask"], "bool")
        rows, columns = ops.shape(image)[1:]
        if field is None:
            field = scale * ops.cast(ops.minimum(rows, columns), scale.dtype)
        self.step = ops.convert_to_tensor(field, dtype=scale.dtype) / (pixels * scale)
        self.half_field = self.step * (pixels * scale) / 2
        # A unit of about 1 first: squares of the images' own would leave what float32 can hold.
        noise = ops.where(mask, noise_rms, 0.0)
        n_used = ops.maximum(ops.sum(ops.cast(mask, image.dtype), axis=(1, 2), keepdims=True), 1.0)
        unit = ops.sum(noise, axis=(1, 2), keepdims=True) / n_used
        unit = ops.where(unit > 0, unit, 1.0)
        image = ops.where(mask, image, 0.0) / unit  # what lies under the mask may be NaN
        weight = inverse_variance(noise_rms / unit, mask)
        image, weight, self.share = resample(image, weight, pixels, self.step)
        peak = image_peak(image, weight)[:, None, None]
        self.signal, self.weight = image / peak, weight * peak**2
        self.width = psf_width(psf, scale) / self.step
        grid = PixelGrid(pixels, pixels, 2.0 / pixels)
        self.x, self.y = (ops.cast(position, image.dtype) * ops.ones_like(image) for position in grid.coordinates())

    def significance(self):
        """The image in units of its noise, compressed."""
        # Where nothing is seen the signal is 0 whatever stands here, and a root has no slope at 0.
        root = ops.sqrt(ops.where(self.weight > 0, self.weight, 1.0))
        return ops.arcsinh(self.signal * root) / 3.0

    def log_noise(self):
        """About between -1 and 1 for noise of 0.1 % to 10 % of the peak; 0 where masked."""
        seen = self.weight > 0
        return ops.where(seen, 2.0 - ops.log(ops.where(seen, self.weight, 1.0)) / 4.0, 0.0)

    def everywhere(self, value):
        """[batch] -> the same at every pixel."""
        return value[:, None, None] * ops.ones_like(self.signal)


# Mirror images of a frame, by the axes that are turned round; and where those are in [batch, rows, columns, channels].
_AS_IT_IS = ((),)
_MIRRORS = (*_AS_IT_IS, ("x",), ("y",), ("x", "y"))
_PLACES = {"x": 2, "y": 1}

# The names that EstimatorConfig.inputs may hold.
INPUTS = {
    "signal": lambda view: view.signal,
    "compressed": lambda view: ops.arcsinh(20.0 * view.signal) / 3.0,
    "significance": View.significance,
    "mask": lambda view: view.share,
    "log_noise": View.log_noise,
    "x": lambda view: view.x,
    "y": lambda view: view.y,
    "radius": lambda view: ops.sqrt(view.x**2 + view.y**2),
    "psf_width": lambda view: view.everywhere(ops.log(0.3 + view.width)),
    "log_step": lambda view: view.everywhere(ops.log(view.step)),
}


@keras.saving.register_keras_serializable("rim_tf")
class Estimator(keras.Model):
    """Image -> posterior of the lens, a mixture of Gaussians as `rim_tf.models.mixture` describes it.

    Args:
      config: `EstimatorConfig`.

    Raises:
      InputError: config.mass holds a type that there is not, or config.stretch is not one number for each parameter.
    """

    def __init__(self, config: EstimatorConfig, **kwargs):
        # The image must be seen in float32 whatever the policy, so inputs are not cast on the way in.
        super().__init__(autocast=False, **kwargs)
        self.config, self.mass = config, MassModel(config.mass)
        self.n_columns = mixture.n_columns(self.mass.size)
        mixture.check_stretch(config.stretch, self.mass)
        n_outputs = config.components * self.n_columns
        same = {"dtype": self.dtype_policy}
        if config.network == "alexnet":
            self.body = AlexNet(n_outputs, config.features, config.hidden, config.dropout, **same)
        else:
            self.body = ResidualNetwork(
                n_outputs, config.features, config.blocks, config.hidden, config.dropout, **same
            )
        self.body.build((None, config.pixels, config.pixels, len(config.inputs)))
        self.dropout_seeds = keras.random.SeedGenerator() if config.dropout else None
        self.built = True

    def call(self, inputs, field=None, training=False, seeds=None):
        """The head of the posterior, [batch, components, columns], in arcsec and in float32.

        Args:
          inputs: as of `View`; what else is in it, the lens above all, is not looked at.
          field: as of `View`.
          training: leave units out, as the dropout of the configuration says.
          seeds: keras.random.SeedGenerator that says which; None for the network's own.
        """
        seeds = self.dropout_seeds if seeds is None else seeds
        heads = self._heads(inputs, field, seeds if training else None, 1, _AS_IT_IS)
        return heads[:, 0]

    def posterior(self, inputs, field=None, seed=0):
        """`LensPosterior` of a batch; where there is dropout, of `config.passes` passes with units left out.

        The passes are pooled into one mixture, whose covariance is the mean of the predicted ones and, on top, the
        spread of the means: what Perreault Levasseur et al. (2017) add up. So are what it finds in mirror images, where
        `config.mirrored` says so. That is better than each and too wide, as they do not err alike: see
        `config.stretch`.

        Args:
          inputs: as of `call`.
          field: as of `call`.
          seed: of the dropout, an integer from 0 to 2^24.
        """
        head = self._pooled(inputs, field, seed, _MIRRORS if self.config.mirrored else _AS_IT_IS)
        return mixture.LensPosterior(mixture.stretched(head, self.config.stretch), self.mass)

    def as_it_is(self, inputs):
        """As `posterior`, of the images as they are alone, and not stretched."""
        return mixture.LensPosterior(self._pooled(inputs, None, 0, _AS_IT_IS), self.mass)

    def _pooled(self, inputs, field, seed, mirrors):
        seed, passes = (seed, self.config.passes) if self.config.dropout else (None, 1)
        return mixture.pooled(self._heads(inputs, field, seed, passes, mirrors))

    def _heads(self, inputs, field, seed, passes, mirrors):
        """[batch, mirrors * passes, components, columns]"""
        view = View(inputs, self.config.pixels, field)
        x = ops.stack([INPUTS[name](view) for name in self.config.inputs], axis=-1)
        seen = ops.concatenate([self._mirrored(x, axes) for axes in mirrors], axis=0)
        raw = self.body(ops.cast(seen, self.compute_dtype), seed=seed, passes=passes)
        raw = ops.cast(ops.reshape(raw, (-1, self.config.components, self.n_columns)), view.signal.dtype)
        scales = [ops.tile(scale, (len(mirrors), 1)) for scale in usual(self.mass, view.half_field)]
        centre, spread = (ops.repeat(scale, passes, axis=0) for scale in scales)
        heads = mixture.from_raw(raw, centre, spread, diagonal=self.config.covariance == "diagonal")
        heads = ops.reshape(heads, (len(mirrors), -1, passes, self.config.components, self.n_columns))
        turned_back = [mixture.mirrored(heads[i], self.mass.mirrored(*axes)) for i, axes in enumerate(mirrors)]
        return ops.concatenate(turned_back, axis=1)

    def _mirrored(self, x, axes):
        """What the network sees of a mirror image, whose pixels are where they are in any image."""
        if not axes:
            return x
        for axis in axes:
            x = ops.flip(x, _PLACES[axis])
        place = [-1.0 if name in axes else 1.0 for name in self.config.inputs]
        return x * ops.convert_to_tensor(place, dtype=x.dtype)

    def get_config(self):
        return super().get_config() | {"config": dataclasses.asdict(self.config)}

    @classmethod
    def from_config(cls, values):
        values = dict(values)
        return cls(EstimatorConfig(**values.pop("config")), **values)
