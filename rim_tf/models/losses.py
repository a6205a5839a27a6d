"""What a RIM is trained to make small, and the figure by which people judge it."""

import keras
from keras import ops

from rim_tf.models import mixture
from rim_tf.models.source_errors import SourceDistribution, from_real
from rim_tf.models.wavelets import level_of
from rim_tf.physics.mass.model import MassModel


def rms_over_peak(source, estimate):
    """Root-mean-square error over all pixels in units of the true peak: [..., n, n] each -> [...]."""
    peak = ops.max(ops.abs(source), axis=(-2, -1))
    return ops.sqrt(ops.mean((estimate - source) ** 2, axis=(-2, -1)) + 1e-12) / peak


def _flux_penalty(source, estimate):
    """0.1 for each per cent of flux error: its modulus, which makes the median error vanish; [..., n, n] -> [...]."""
    flux = ops.sum(source, axis=(-2, -1))
    error = ops.sum(estimate, axis=(-2, -1)) / flux - 1
    return 10 * ops.sqrt(error**2 + 0.002**2)  # smooth where the error is below what matters


@keras.saving.register_keras_serializable("rim_tf")
class IterateLoss(keras.losses.Loss):
    """Error of every iterate, [batch, n, n] against [batch, n_steps, n, n] -> one number for each system.

    Args:
      kind: "squared": half the summed squared error, as in the paper's authors' earlier code; "rms": the
        RMS in units of the peak; "log_rms": its logarithm, for which a lens seen at a signal-to-noise ratio of
        1000 counts as much as one at 10 - with "rms", the noisy ones are nearly all of the loss; "log_rms_flux":
        that, and the error of the flux, of which the RMS of a few bright pixels knows little.
    """

    KINDS = ("squared", "rms", "log_rms", "log_rms_flux")

    def __init__(self, kind="rms", name="iterate_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        if kind not in self.KINDS:
            raise ValueError(f"Loss {kind!r} is unknown; it must be one of {', '.join(self.KINDS)}.")
        self.kind = kind

    def call(self, y_true, y_pred):
        if self.kind == "squared":
            return ops.mean(ops.sum((y_pred - y_true[:, None]) ** 2, axis=(-2, -1)), axis=1) / 2
        rms = rms_over_peak(y_true[:, None], y_pred)
        loss = ops.mean(rms if self.kind == "rms" else ops.log(rms), axis=1)
        return loss + ops.mean(_flux_penalty(y_true[:, None], y_pred), axis=1) if self.kind == "log_rms_flux" else loss

    def get_config(self):
        return super().get_config() | {"kind": self.kind}


def final_rms_percent(y_true, y_pred):
    """Mean RMS of the last iterate in per cent of the peak; a metric for `compile`."""
    return 100 * ops.mean(rms_over_peak(y_true, y_pred[:, -1]))


@keras.saving.register_keras_serializable("rim_tf")
class LensLoss(keras.losses.Loss):
    """Minus the logarithm of the density that a posterior gives the true lens, in coordinates without bounds.

    Lenses [batch, parameters] against heads [batch, components, columns] (`rim_tf.models.mixture`) -> one number for
    each system. Finite wherever the head came from `mixture.from_raw` and the lens lies within its bounds.

    Args:
      mass: types of the mass model.
    """

    def __init__(self, mass=("sie", "shear"), name="lens_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.mass = MassModel(tuple(mass))

    def call(self, y_true, y_pred):
        return -mixture.log_density(y_pred, self.mass.to_real(y_true)[:, None])[:, 0]

    def get_config(self):
        return super().get_config() | {"mass": self.mass.types}


@keras.saving.register_keras_serializable("rim_tf")
class JointLoss(keras.losses.Loss):
    """What is wrong with every iterate of lens and source, and with the errors that are given to both.

    Truths {"lens": [batch, parameters], "source": [batch, n, m]} against what `rim_tf.models.joint.JointRIM` returns ->
    one number for each system: minus the log density of the lens for each parameter, at every step (Student's, so that
    the few that are far off do not rule) and at the end; `IterateLoss` of the kind "log_rms_flux"; and minus the log
    density of the source's pixels.

    Args:
      mass: types of the mass model.
    """

    def __init__(self, mass=("sie", "shear"), name="joint_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.mass, self._sources = MassModel(tuple(mass)), IterateLoss("log_rms_flux")

    def call(self, y_true, y_pred):
        u, source = self.mass.to_real(y_true["lens"]), y_true["source"]
        offset = (u[:, None] - y_pred["u"]) * ops.exp(-y_pred["log_sigma"])
        on_the_way = ops.mean(y_pred["log_sigma"] + 2.5 * ops.log1p(offset**2 / 4), axis=(1, 2))
        at_last = -mixture.log_density(y_pred["head"], u[:, None])[:, 0] / self.mass.size
        peak = ops.max(ops.abs(source), axis=(1, 2), keepdims=True)
        error, log_error = (y_pred["source"][:, -1] - source) / peak, y_pred["log_error"] - ops.log(peak)
        pixels = ops.mean(0.5 * (error * ops.exp(-log_error)) ** 2 + log_error, axis=(1, 2))
        return on_the_way + at_last + self._sources.call(source, y_pred["source"]) + 0.1 * pixels

    def get_config(self):
        return super().get_config() | {"mass": self.mass.types}


def last_theta_E_error_percent(y_true, y_pred):
    """Mean modulus of the relative error of theta_E after the last step, in per cent; the arguments of `JointLoss`."""
    return 100 * ops.mean(ops.abs(ops.exp(y_pred["u"][:, -1, 0] - ops.log(y_true["lens"][:, 0])) - 1))


def theta_E_error_percent(y_true, y_pred):
    """Mean modulus of the relative error of theta_E, the first column, in per cent; a metric for `compile`.

    The estimate is the mean of log theta_E over the mixture. The arguments are those of `LensLoss`.
    """
    log_theta_E = ops.sum(ops.exp(y_pred[..., 0]) * y_pred[..., 1], axis=1)
    return 100 * ops.mean(ops.abs(ops.exp(log_theta_E - ops.log(y_true[:, 0])) - 1))


@keras.saving.register_keras_serializable("rim_tf")
class SourceLoss(keras.losses.Loss):
    """Minus the logarithm of the density that a distribution gives the true source, a mean over its wavelets.

    Sources [batch, n, m] against heads [batch, n, m, columns] (`rim_tf.models.source_errors`) -> one number for each
    system. As the wavelets are independent, any weights have the same best distribution. Each level counts three times
    as much for a wavelet as the next finer one, which has four times as many: or else the few coarse ones, of which
    the flux is made, would be learned last.

    Args:
      levels: of the wavelets of the head.
    """

    def __init__(self, levels, name="source_loss", **kwargs):
        super().__init__(name=name, **kwargs)
        self.levels = levels

    def call(self, y_true, y_pred):
        level = level_of(*ops.shape(y_true)[1:], self.levels)
        weight = ops.power(3.0, ops.cast(level, y_pred.dtype))
        each = SourceDistribution(y_pred, self.levels).log_prob_of_wavelets(y_true)
        return -ops.sum(weight * each, axis=(1, 2)) / ops.sum(weight)

    def get_config(self):
        return super().get_config() | {"levels": self.levels}


def error_over_noise(y_true, y_pred):
    """RMS error of the middle of a distribution in units of the noise; a metric for `compile`.

    The arguments are those of `SourceLoss`.
    """
    unit = y_pred[:, 0, 0, 1]
    middle = from_real(y_pred[..., 0], unit)
    return ops.sqrt(ops.mean(((middle - y_true) / unit[:, None, None]) ** 2))
