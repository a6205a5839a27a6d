"""The Recurrent Inference Machine: a learned optimiser of the likelihood, unrolled for a fixed number of steps."""

import dataclasses

import keras
from keras import ops

from rim_tf.config import RIMConfig
from rim_tf.models.layers import LINKS, RIMCell
from rim_tf.physics.imaging import imaging_problem
from rim_tf.physics.mass.model import SIE_SHEAR

# Slopes of the link below this make the source deaf to its latent; the gradient step does not divide by them.
_LEAST_SLOPE = 0.05


def unroll(cell, gradient, latent, state, n_steps, remat=None):
    """The recursion of Eq. 3 on the latent image, x_{t+1} = x_t + dx_t. Training, prediction and export call it.

    Args:
      cell: callable (latent, gradient, state) -> (update shaped like latent, new state).
      gradient: callable latent -> d log-likelihood / d source at it (Eq. 7), or whatever else the cell is to be told.
      latent: first estimate, [batch, n, n], or any structure of tensors of which each is updated.
      state: first hidden state of the cell, any structure.
      n_steps: how many steps.
      remat: makes of a step one that does the same, but keeps its arguments alone for the backward pass, as
        `training.recomputation` has it for training in less memory; None for steps as they are.

    Returns:
      Every iterate after the first, [batch, n_steps, n, n], in the structure of `latent`.
    """
    first, n_latent = keras.tree.flatten((latent, state)), len(keras.tree.flatten(latent))

    def step(*parts):
        at, memory = keras.tree.pack_sequence_as((latent, state), parts)
        update, memory = cell(at, gradient(at), memory)
        return *keras.tree.flatten(keras.tree.map_structure(ops.add, at, update)), *keras.tree.flatten(memory)

    step = step if remat is None else remat(step)
    parts, iterates = first, []
    for _ in range(n_steps):
        parts = step(*parts)
        iterates.append(parts[:n_latent])
    stacked = [ops.stack(each, axis=1) for each in zip(*iterates, strict=True)]
    return keras.tree.pack_sequence_as(latent, stacked)


class Step:
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

    def newton(self):
        """The change of the latent that takes a step of `preconditioned` in the source."""
        return self.preconditioned() * self.slope / (self.slope**2 + _LEAST_SLOPE**2)

    def log_noise(self):
        return ops.log(self.problem.noise_level)[:, None, None] / 2.0 + 2.0 + ops.zeros_like(self.latent)

    def log_coverage(self):
        return self.problem.log_coverage


# The names that RIMConfig.inputs may hold.
INPUTS = {
    "latent": lambda step: step.latent,
    "source": lambda step: step.source,
    "gradient": Step.gradient,
    "preconditioned": Step.preconditioned,
    "significance": Step.significance,
    "log_noise": Step.log_noise,
    "log_coverage": Step.log_coverage,
}


@keras.saving.register_keras_serializable("rim_tf")
class RIM(keras.Model):
    """Reconstructs the sources of lensed images, given their lenses (Section 2.1).

    Args:
      config: `RIMConfig`.

    Attributes:
      remat: as in `unroll`, which training may set.
    """

    remat = None

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

    def call(self, inputs, source_shape=None, mass=SIE_SHEAR):
        """Every iterate of the sources of a batch of images, in the images' units, [batch, n_steps, n, m].

        Args:
          inputs: dictionary of tensors, as `rim_tf.systems.IMAGING` describes them; `mask` of any type.
          source_shape: rows and columns of the source grid, multiples of the stride; without it those of the
            image, rounded up to such multiples.
          mass: `MassModel`, to which the columns of inputs["lens"] belong.
        """
        if source_shape is None:
            source_shape = self.source_shape(ops.shape(inputs["image"])[1:])
        return self.solve(imaging_problem(inputs, source_shape, mass))

    def solve(self, problem, n_steps=None):
        """Every iterate of the sources of a `Problem`, whatever instrument it is of, in the units of its data.

        Args:
          problem: `rim_tf.physics.problem.Problem`, its source grid of multiples of the stride.
          n_steps: how many steps; None takes all that the network was trained for.

        Returns:
          [batch, n_steps, n, m].
        """
        inner, scale = self._in_its_units(problem)
        iterates = unroll(*self._recursion(inner), self.config.n_steps if n_steps is None else n_steps, self.remat)
        return self.link.source(iterates) * ops.reshape(scale, (-1, 1, 1, 1))

    def solve_last(self, problem, n_steps=None):
        """The last iterate alone, by a loop that is traced once however many steps it takes: for prediction.

        Args:
          problem: as in `solve`.
          n_steps: how many steps, a number or a scalar tensor; None takes all that the network was trained for.

        Returns:
          [batch, n, m].
        """
        inner, scale = self._in_its_units(problem)
        cell, gradient, latent, state = self._recursion(inner)

        def step(done, latent, *state):
            update, state = cell(latent, gradient(latent), list(state))
            return done + 1, latent + update, *state

        n_steps = self.config.n_steps if n_steps is None else n_steps
        _, latent, *_ = ops.while_loop(lambda done, *_: done < n_steps, step, (0, latent, *state))
        return self.link.source(latent) * ops.reshape(scale, (-1, 1, 1))

    def _in_its_units(self, problem):
        """The problem in the units of brightness that the cell knows, and these units, [batch]."""
        scale = problem.peak() if self.config.flux_scale == "image" else ops.ones_like(problem.mean_weight)
        return problem.in_units_of(scale), scale

    def _recursion(self, problem):
        """Of `unroll`: cell, gradient, first latent image and first state."""
        # The problem keeps what it has computed: before the first step, as JAX takes a step that is to be done anew for
        # a function of its own, whose values no other may use.
        _ = problem.curvature_bound, problem.log_coverage
        return (
            lambda latent, gradient, state: self._update(problem, latent, gradient, state),
            lambda latent: problem.score(self.link.source(latent)),
            self.link.latent(self._start(problem)),
            self.cell.initial_state(*problem.lensing.shape),
        )

    def source_shape(self, image_shape):
        """The smallest source grid for an image of `image_shape`, in multiples of the stride."""
        return [-(-n // self.config.stride) * self.config.stride for n in image_shape]

    def _start(self, problem):
        if self.config.start == "backprojection":
            return ops.maximum(problem.backprojection(), 1e-3)
        return ops.full_like(problem.curvature_bound, self.config.start)

    def _update(self, problem, latent, gradient, state):
        step = Step(problem, self.link, latent, gradient)
        x = ops.stack([INPUTS[name](step) for name in self.config.inputs], axis=-1)
        output, state = self.cell(ops.cast(x, self.compute_dtype), state)
        output = ops.cast(output, latent.dtype)
        update = output[..., 0]
        if self.config.gradient_step:
            update = update + output[..., 1] * step.newton()
        return update, state

    def get_config(self):
        return super().get_config() | {"config": dataclasses.asdict(self.config)}

    @classmethod
    def from_config(cls, values):
        values = dict(values)
        return cls(RIMConfig.from_dict(values.pop("config")), **values)
