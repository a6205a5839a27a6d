"""The Recurrent Inference Machine: a learned optimiser of the likelihood, unrolled for a fixed number of steps."""

import dataclasses

import keras
from keras import ops

from rim_tf.config import RIMConfig
from rim_tf.models.layers import LINKS, RIMCell
from rim_tf.physics.imaging import imaging_operator
from rim_tf.physics.likelihood import inverse_variance, score

# Half an image pixel of coverage: the preconditioner trusts a source pixel seen by less only in part.
_DAMPING = 0.5
# Slopes of the link below this make the source deaf to its latent; the gradient step does not divide by them.
_LEAST_SLOPE = 0.05


def unroll(cell, gradient, latent, state, n_steps):
    """The recursion of Eq. 3 on the latent image, x_{t+1} = x_t + dx_t. Training, prediction and export call it.

    Args:
      cell: callable (latent, gradient, state) -> (update shaped like latent, new state).
      gradient: callable latent -> d log-likelihood / d source at it (Eq. 7), shaped like latent.
      latent: first estimate, [batch, n, n].
      state: first hidden state of the cell, any structure.
      n_steps: how many steps.

    Returns:
      Every iterate after the first, [batch, n_steps, n, n].
    """
    iterates = []
    for _ in range(n_steps):
        update, state = cell(latent, gradient(latent), state)
        latent = latent + update
        iterates.append(latent)
    return ops.stack(iterates, axis=1)


class _Step:
    """What the cell can see of one system and one estimate; computed at each step, [batch, n, n] each."""

    def __init__(self, problem, link, latent, gradient):
        self.latent, self.gradient_in_source = latent, gradient
        self.source = link.source(latent)
        self.slope = link.slope(self.source)
        self.problem = problem

    def gradient(self):
        """d log-likelihood / d latent: Eq. 7, through the link."""
        return self.gradient_in_source * self.slope

    def preconditioned(self):
        """The gradient in units of brightness: a step that SIRT, and no more, would take."""
        return self.gradient_in_source / self.problem.curvature_bound

    def significance(self):
        """The gradient in units of its own noise, compressed."""
        return ops.arcsinh(self.gradient_in_source / ops.sqrt(self.problem.curvature_bound))

    def log_noise(self):
        return ops.log(self.problem.noise_level)[:, None, None] / 2.0 + 2.0 + ops.zeros_like(self.latent)

    def log_coverage(self):
        return self.problem.log_coverage


# The names that RIMConfig.inputs may hold.
INPUTS = {
    "latent": lambda step: step.latent,
    "source": lambda step: step.source,
    "gradient": _Step.gradient,
    "preconditioned": _Step.preconditioned,
    "significance": _Step.significance,
    "log_noise": _Step.log_noise,
    "log_coverage": _Step.log_coverage,
}


class Problem:
    """The physics of a batch of systems, in internal units: A = B L, data, weights, and what follows from them.

    Args:
      inputs: the dictionary that `RIM.call` takes.
      source_shape: rows and columns of the source grid.
      flux_scale: as in RIMConfig.
    """

    def __init__(self, inputs, source_shape, flux_scale):
        image = inputs["image"]
        self.operator = imaging_operator(inputs, source_shape)
        weight = inverse_variance(inputs["noise_rms"], inputs["mask"])
        data = ops.where(inputs["mask"], image, 0.0)  # what lies under the mask may be NaN
        self.scale = image_peak(data, weight) if flux_scale == "image" else ops.ones_like(image[:, 0, 0])
        scale = self.scale[:, None, None]
        self.data = data / scale
        self.weight = weight * scale**2
        n_used = ops.sum(ops.cast(inputs["mask"], image.dtype), axis=(1, 2))
        mean_weight = ops.sum(self.weight, axis=(1, 2)) / ops.maximum(n_used, 1.0)
        self.noise_level = 1 / ops.sqrt(mean_weight)
        coverage = self.operator.adjoint(self.weight)
        # A has no negative entry and its rows sum to at most 1, so A^T C_N^-1 A is below diag(A^T C_N^-1 1):
        # the step of SIRT, which converges for every lens, PSF, mask and noise map.
        self.curvature_bound = coverage + _DAMPING * mean_weight[:, None, None]
        self.log_coverage = ops.log1p(coverage / mean_weight[:, None, None])

    def score(self, source):
        """Eq. 7 in internal units."""
        return score(self.operator, source, self.data, self.weight)

    def backprojection(self):
        """Each source pixel the weighted mean of the image pixels that see it: flux-normalised, not an adjoint."""
        return self.operator.adjoint(self.weight * self.data) / self.curvature_bound


def image_peak(image, weight):
    """Twice the largest weighted mean over 3 x 3 pixels, [batch]: near the peak of the source, whatever the noise.

    Only pixels that count as much as a tenth of the best are looked at, so that one bad pixel sets no scale.
    """
    kernel = ops.ones((3, 3, 1, 1), dtype=image.dtype)
    total = ops.conv(weight[..., None], kernel, padding="same")
    flux = ops.conv((weight * image)[..., None], kernel, padding="same")
    trusted = total > 0.1 * ops.max(total, axis=(1, 2, 3), keepdims=True)
    mean = ops.where(trusted, flux / ops.where(trusted, total, 1.0), 0.0)
    peak = 2 * ops.max(mean, axis=(1, 2, 3))
    return ops.where(peak > 0, peak, 1.0)


@keras.saving.register_keras_serializable("rim_tf")
class RIM(keras.Model):
    """Reconstructs the sources of lensed images, given their lenses (Section 2.1).

    Args:
      config: `RIMConfig`.
    """

    def __init__(self, config: RIMConfig, **kwargs):
        # The physics must see float32 whatever the policy, so inputs are not cast on the way in.
        super().__init__(autocast=False, **kwargs)
        self.config = config
        self.link = LINKS[config.link]
        self.cell = RIMCell(
            2 if config.gradient_step else 1,
            config.features,
            config.hidden,
            config.kernel,
            config.stride,
            dtype=self.dtype_policy,
        )
        self.cell.build((None, None, None, len(config.inputs)))
        self.built = True

    def call(self, inputs, source_shape=None):
        """Every iterate of the source, in the data's units of surface brightness, [batch, n_steps, n, n].

        Args:
          inputs: a dictionary of tensors for a batch of systems:
            image, noise_rms [batch, rows, columns]: surface brightness and its standard deviation;
            mask [batch, rows, columns]: of any type, not zero where a pixel is to be used;
            psf: [batch] Gaussian sigma [arcsec], or [batch, k, k] stamps, k odd, each with unit sum;
            lens [batch, 7]: as in `rim_tf.physics.deflection`;
            pixel_scale, source_pixel_scale [batch]: [arcsec].
          source_shape: rows and columns of the source grid, multiples of the stride; without it those of the
            image, rounded up to such multiples.
        """
        inputs = inputs | {"mask": ops.cast(inputs["mask"], "bool")}
        if source_shape is None:
            source_shape = [self._multiple(n) for n in ops.shape(inputs["image"])[1:]]
        problem = Problem(inputs, source_shape, self.config.flux_scale)
        state = self.cell.initial_state(ops.shape(inputs["image"])[0], *source_shape)
        iterates = unroll(
            lambda latent, gradient, state: self._update(problem, latent, gradient, state),
            lambda latent: problem.score(self.link.source(latent)),
            self.link.latent(self._start(problem)),
            state,
            self.config.n_steps,
        )
        return self.link.source(iterates) * problem.scale[:, None, None, None]

    def _multiple(self, n):
        return -(-n // self.config.stride) * self.config.stride

    def _start(self, problem):
        if self.config.start == "backprojection":
            return ops.maximum(problem.backprojection(), 1e-3)
        return ops.full_like(problem.curvature_bound, self.config.start)

    def _update(self, problem, latent, gradient, state):
        step = _Step(problem, self.link, latent, gradient)
        x = ops.stack([INPUTS[name](step) for name in self.config.inputs], axis=-1)
        output, state = self.cell(ops.cast(x, self.compute_dtype), state)
        output = ops.cast(output, latent.dtype)
        update = output[..., 0]
        if self.config.gradient_step:
            newton = step.preconditioned() * step.slope / (step.slope**2 + _LEAST_SLOPE**2)
            update = update + output[..., 1] * newton
        return update, state

    def get_config(self):
        return super().get_config() | {"config": dataclasses.asdict(self.config)}

    @classmethod
    def from_config(cls, values):
        values = dict(values)
        return cls(RIMConfig.from_dict(values.pop("config")), **values)
