"""Lens and source in one loop: a RIM that improves both at every step, from an image and a first guess of its lens.

Each step traces the rays anew for the lens as it stands. The cell of the RIM sees the score in the source, as in
Section 2.1, and how doubtful the lens is. A second, smaller part moves the lens: it looks at the residual in the image
plane, sees the steps that Gauss and Newton's method would take, and remembers what came of those before. All that it
sees and does is in units of its own error of each parameter, which it keeps up beside the lens.
"""

import dataclasses
import math

import keras
import numpy as np
from keras import ops

from rim_tf.config import JointConfig
from rim_tf.errors import InputError
from rim_tf.models import mixture
from rim_tf.models.estimator import usual
from rim_tf.models.layers import RIMCell, Softplus
from rim_tf.models.networks import DenseHead
from rim_tf.models.rim import INPUTS, Step, unroll
from rim_tf.physics.imaging import imaging_problem
from rim_tf.physics.mass.model import MassModel
from rim_tf.physics.tangents import Tangents

# What the cell sees of the source, by their names in `rim.INPUTS`: those of the RIM `small`, whose weights it can take.
_SEEN = ("latent", "source", "preconditioned", "significance", "log_noise", "log_coverage")
# And of the lens: errors of the model image by its own, back-projected; chi^2; and the mean error of its parameters.
_SEEN_OF_LENS = 3
N_SEEN_BY_CELL = len(_SEEN) + _SEEN_OF_LENS
# What the cell puts out: the update, the gain of the gradient's step, and the change of the pixels' errors.
N_PUT_OUT = 3
# Maps of the image plane that the encoder sees, beside those of each parameter.
N_MAPS = 7
# Longest step in a parameter and largest change of its error, per step: in units of the error, and of its logarithm.
_LONGEST, _FASTEST = 3.0, 1.0
# A step of Gauss and Newton counts up to so many errors.
_BELIEVED = 5.0
# Logits of the share of such a step that an untrained network takes, with a fixed source and a projected one.
_FIRST_GATES = (-3.0, -1.0)
# First errors of the source's pixels, over the image's peak, and the least.
_FIRST_ERROR, _LEAST_LOG_ERROR = 0.03, -10.0


def n_figures(config, n):
    """How many numbers say how a lens of n parameters stands, in a network of the settings `config`."""
    return 3 * n + 2 + {"none": 0, "fixed": 2 * n, "projected": 4 * n + n * (n - 1) // 2}[config.curvature]


def n_moves(config):
    """How many numbers move each parameter: its own step, a gate for each of Gauss and Newton's, its error's change."""
    return 2 + {"none": 0, "fixed": 1, "projected": 2}[config.curvature]


@keras.saving.register_keras_serializable("rim_tf")
class ImageEncoder(keras.layers.Layer):
    """Convolutions that encode images of any size in so many numbers.

    Args:
      features: channels of each convolution, of stride 2.
      side: of the maps that the last one's are resized to.
      n_outputs: numbers to put out.
    """

    def __init__(self, features, side, n_outputs, **kwargs):
        super().__init__(**kwargs)
        self.features, self.side, self.n_outputs = tuple(features), side, n_outputs
        same = {"padding": "same", "activation": "relu", "dtype": self.dtype_policy}
        self.convolutions = [keras.layers.Conv2D(n, 3, strides=2, **same) for n in self.features]
        self.dense = keras.layers.Dense(n_outputs, activation="tanh", dtype=self.dtype_policy)

    def build(self, input_shape):
        channels = input_shape[-1]
        for layer in self.convolutions:
            layer.build((None, None, None, channels))
            channels = layer.filters
        self.dense.build((None, self.side**2 * channels))
        self.built = True

    def call(self, x):
        """[batch, rows, columns, channels] -> [batch, n_outputs]"""
        for layer in self.convolutions:
            x = layer(x)
        x = ops.image.resize(x, (self.side, self.side), interpolation="bilinear", data_format="channels_last")
        return self.dense(ops.reshape(x, (-1, self.side**2 * self.features[-1])))

    def get_config(self):
        return super().get_config() | {name: getattr(self, name) for name in ("features", "side", "n_outputs")}


@keras.saving.register_keras_serializable("rim_tf")
class LensUpdate(keras.layers.Layer):
    """Moves the lens by what is seen now and remembered of the steps before: a GRU and a linear layer.

    Args:
      n_outputs: numbers to put out.
      memory: numbers that are remembered.
    """

    def __init__(self, n_outputs, memory, **kwargs):
        super().__init__(**kwargs)
        self.n_outputs, self.memory = n_outputs, memory
        self.recall = keras.layers.GRUCell(memory, dtype=self.dtype_policy)
        # Small at first, as the cell's: an untrained network leaves the lens where it is.
        small = keras.initializers.RandomNormal(stddev=0.01)
        self.move = keras.layers.Dense(n_outputs, kernel_initializer=small, dtype=self.dtype_policy)

    def build(self, input_shape):
        self.recall.build(input_shape)
        self.move.build((None, self.memory))
        self.built = True

    def call(self, x, memory):
        """What is seen [batch, figures], memory [batch, memory] -> [batch, n_outputs], new memory."""
        memory, _ = self.recall(x, [memory])
        return self.move(memory), memory

    def get_config(self):
        return super().get_config() | {"n_outputs": self.n_outputs, "memory": self.memory}


@keras.saving.register_keras_serializable("rim_tf")
class JointRIM(keras.Model):
    """Finds lens and source of lensed images together.

    Args:
      config: `JointConfig`.

    Raises:
      InputError: config.mass does not begin with a type that has a theta_E, or config.stretch is not one number for
        each parameter.

    Attributes:
      remat: as in `rim_tf.models.rim.unroll`, which training may set.
    """

    remat = None

    def __init__(self, config: JointConfig, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.config, self.mass, self.link = config, MassModel(config.mass), Softplus
        if not self.mass.names[0].startswith("theta_E"):
            raise InputError(f"mass is {config.mass}; it must begin with a type that has a theta_E, as 'sie'.")
        mixture.check_stretch(config.stretch, self.mass)
        n, same = self.mass.size, {"dtype": self.dtype_policy}
        self.cell = RIMCell(N_PUT_OUT, config.features, config.hidden, config.kernel, config.stride, **same)
        self.cell.build((None, None, None, N_SEEN_BY_CELL))
        n_seen = n_figures(config, n)
        if config.encoder:
            self.encoder = ImageEncoder(config.encoder, config.encoder_side, config.memory, **same)
            self.encoder.build((None, None, None, N_MAPS + n))
            n_seen += config.memory
        self.controller = LensUpdate(n_moves(config) * n, config.memory, **same)
        self.controller.build((None, n_seen))
        self.head = DenseHead(config.components * mixture.n_columns(n), (config.memory,), **same)
        self.head.build((None, 1, 1, config.memory))
        self.built = True

    def begin_from(self, rim):
        """Take the weights of the cell of a `RIM` as far as they go: of its inputs and outputs this one has more.

        Args:
          rim: `RIM` of the same features, hidden, kernel and stride, and of the inputs of the preset `small`.

        Raises:
          InputError: another one.
        """
        own, like = self.config, rim.config
        same = all(getattr(own, name) == getattr(like, name) for name in ("features", "hidden", "kernel", "stride"))
        if not (same and like.inputs == _SEEN and like.link == "softplus" and like.gradient_step):
            raise InputError(
                "The weights to begin from are those of a RIM of other features, hidden, kernel, stride, link or "
                "inputs than this network's cell; take those of a RIM like the preset `small`."
            )
        new = []
        for own, other in zip(self.cell.weights, rim.cell.weights, strict=True):
            value, other = ops.convert_to_numpy(own).copy(), ops.convert_to_numpy(other)
            if value.shape != other.shape:
                value *= 0.0
            value[tuple(slice(n) for n in other.shape)] = other
            new.append(value)
        self.cell.set_weights(new)

    def call(self, inputs, source_shape=None):
        """Every iterate of lens and source.

        Args:
          inputs: dictionary of tensors as `rim_tf.systems.IMAGING` describes them, without the lens; and, as
            `first_guess` gives them, `start` and `start_error`.
          source_shape: as of `rim_tf.models.rim.RIM.call`.

        Returns:
          Dictionary of
            u: the lens in coordinates without bounds, [batch, n_steps, parameters].
            log_sigma: logarithms of its errors, the same shape.
            source: in the images' units, [batch, n_steps, n, m].
            head: mixture of Gaussians, the posterior of u after the last step (`rim_tf.models.mixture`), as wide as
              `config.stretch` makes it.
            log_error: logarithm of the standard deviation of the last source's pixels, [batch, n, m].
        """
        loop = _Loop(self, inputs, self._shape(inputs, source_shape))
        found = unroll(loop.update, loop.observe, loop.first(), loop.state(), self.config.n_steps, self.remat)
        last = {name: found[name][:, -1] for name in ("u", "log_sigma", "memory", "log_error")}
        return {
            "u": found["u"],
            "log_sigma": found["log_sigma"],
            "source": self.link.source(found["latent"]) * loop.unit[:, None, None, None],
            **self._errors(last, loop.unit),
        }

    def _errors(self, at, unit):
        """What `call` returns as head and log_error, of the estimate `at`; `unit` is that of brightness, [batch]."""
        memory = ops.cast(at["memory"][:, None, None], self.compute_dtype)
        raw = ops.reshape(self.head(memory), (-1, self.config.components, mixture.n_columns(self.mass.size)))
        head = mixture.from_raw(ops.cast(raw, at["u"].dtype), at["u"], ops.exp(at["log_sigma"]))
        return {
            "head": mixture.stretched(head, self.config.stretch),
            "log_error": ops.maximum(at["log_error"], _LEAST_LOG_ERROR) + ops.log(unit)[:, None, None],
        }

    def search(self, inputs, n_steps=None, source_shape=None):
        """As `call`, by a loop that is traced once however many steps it takes: for prediction.

        Args:
          inputs: as of `call`.
          n_steps: how many steps, a number or, on TensorFlow, a scalar tensor; None takes all that the network was
            trained for.
          source_shape: as of `call`.

        Returns:
          Dictionary of
            path: lenses, the first where they started, [batch, n_steps + 1, parameters].
            chi2_per_pixel: of each, with the source as it was then, [batch, n_steps + 1].
            source: the last, in the images' units, [batch, n, m].
            head, log_error: as of `call`.
        """
        loop = _Loop(self, inputs, self._shape(inputs, source_shape))
        n_steps = self.config.n_steps if n_steps is None else n_steps
        at, state = loop.first(), loop.state()
        batch, n = ops.shape(at["u"])
        path = ops.repeat(at["u"][:, None], n_steps + 1, axis=1)
        chi2 = ops.repeat(loop.chi2_per_pixel(at)[:, None], n_steps + 1, axis=1)

        def step(done, path, chi2, *parts):
            at_now, state_now = keras.tree.pack_sequence_as((at, state), list(parts))
            update, state_now = loop.update(at_now, loop.observe(at_now), state_now)
            at_now = keras.tree.map_structure(ops.add, at_now, update)
            path = ops.slice_update(path, [0, done + 1, 0], at_now["u"][:, None])
            chi2 = ops.slice_update(chi2, [0, done + 1], loop.chi2_per_pixel(at_now)[:, None])
            return done + 1, path, chi2, *keras.tree.flatten((at_now, state_now))

        first = (0, path, chi2, *keras.tree.flatten((at, state)))
        _, path, chi2, *last = ops.while_loop(lambda done, *_: done < n_steps, step, first)
        at, _ = keras.tree.pack_sequence_as((at, state), last)
        return {
            "path": ops.reshape(self.mass.from_real(ops.reshape(path, (-1, n))), (batch, n_steps + 1, n)),
            "chi2_per_pixel": chi2,
            "source": self.link.source(at["latent"]) * loop.unit[:, None, None],
            **self._errors(at, loop.unit),
        }

    def _shape(self, inputs, given):
        return self.source_shape(ops.shape(inputs["image"])[1:]) if given is None else given

    def source_shape(self, shape):
        """Rows and columns of the source that belongs to an image of so many: rounded up to the stride."""
        stride = self.config.stride
        return [-(-n // stride) * stride for n in shape]

    def get_config(self):
        return super().get_config() | {"config": dataclasses.asdict(self.config)}

    @classmethod
    def from_config(cls, values):
        values = dict(values)
        return cls(JointConfig(**values.pop("config")), **values)


class _Loop:
    """What `unroll` calls for a batch of images: what is seen of an estimate, and how it is improved.

    Args:
      model: `JointRIM`.
      inputs: as of `JointRIM.call`.
      source_shape: rows and columns of the source grid.

    Attributes:
      unit: of brightness, in the images' units, [batch].
    """

    def __init__(self, model, inputs, source_shape):
        self.model, self.mass = model, model.mass
        self.start, self.start_error = (ops.convert_to_tensor(inputs[name]) for name in ("start", "start_error"))
        problem = imaging_problem(inputs | {"lens": self.mass.from_real(self.start)}, source_shape, self.mass)
        self.unit = problem.peak()
        self.problem = problem.in_units_of(self.unit)
        self.tangents = Tangents(inputs, source_shape, self.mass)
        rows, columns = ops.shape(inputs["image"])[1:]
        scale = ops.convert_to_tensor(inputs["pixel_scale"])
        self.usual = usual(self.mass, scale * ops.cast(ops.minimum(rows, columns), scale.dtype) / 2)
        self.x, self.y = self.tangents.image_grid.coordinates()

    def first(self):
        source = ops.maximum(self.problem.backprojection(), 1e-3)
        memory = ops.zeros((ops.shape(self.start)[0], self.model.config.memory), dtype=self.start.dtype)
        return {
            "u": self.start,
            "log_sigma": ops.log(self.start_error),
            "latent": self.model.link.latent(source),
            "log_error": ops.full_like(source, math.log(_FIRST_ERROR)),
            "memory": memory,
        }

    def state(self):
        return self.model.cell.initial_state(*self.problem.lensing.shape)

    def chi2_per_pixel(self, at):
        """Of an estimate, [batch]."""
        problem = self.problem.through(self.tangents.lensing(self.mass.from_real(at["u"])))
        return problem.chi2_per_pixel(problem.model_image(self.model.link.source(at["latent"])))

    def observe(self, at):
        """What there is to be seen of an estimate: for the source a `Step` and maps, for the lens maps and figures."""
        config = self.model.config
        u = at["u"] if config.through_rays else ops.stop_gradient(at["u"])
        problem = self.problem.through(self.tangents.lensing(self.mass.from_real(u)))
        source = self.model.link.source(at["latent"])
        step = Step(problem, self.model.link, at["latent"], problem.score(source))
        # The lens is moved by what is seen, and what is seen is not bent so that the moves be easier.
        at = {name: ops.stop_gradient(each) for name, each in at.items()}
        seen = self._of_lens(problem, ops.stop_gradient(source), at)
        return (step, *keras.tree.map_structure(ops.stop_gradient, seen))

    def _of_lens(self, problem, source, at):
        config, n, batch = self.model.config, self.mass.size, ops.shape(source)[0]
        lensing, weight, u = problem.lensing, problem.weight, at["u"]
        sigma = ops.exp(at["log_sigma"])
        model_image = problem.model_image(source)
        root = ops.sqrt(weight)
        residual = root * (problem.data - model_image)
        chi2 = ops.log(problem.chi2_per_pixel(model_image) + 1e-3)
        tangents = self.tangents(source, u, lensing) * sigma[:, :, None, None]

        centre, spread = self.usual
        figures = [(u - centre) / spread, at["log_sigma"] - ops.log(spread), chi2[:, None]]
        figures += [ops.log(problem.noise_level)[:, None]]
        steps = []
        seen = {"none": [], "fixed": [tangents], "projected": [tangents]}[config.curvature]
        if config.curvature == "projected":
            given = lensing, weight, problem.curvature_bound
            seen.append(self.tangents.projected(tangents, *given, config.projection_steps))
        for i, columns in enumerate(seen):
            columns = ops.reshape(columns * root[:, None], (batch, n, -1))
            gradient = ops.matmul(columns, ops.reshape(residual, (batch, -1, 1)))
            # The lens's own error is the prior of the step, which damps it.
            curvature = ops.matmul(columns, ops.swapaxes(columns, 1, 2)) + ops.eye(n, dtype=u.dtype)
            covariance = ops.linalg.inv(curvature)
            step = ops.clip(ops.matmul(covariance, gradient)[..., 0], -_BELIEVED, _BELIEVED)
            log_error = 0.5 * ops.log(ops.maximum(ops.diagonal(covariance, axis1=1, axis2=2), 1e-12))
            steps.append(step)
            figures += [step, log_error]
            if i == 1:
                scaled = covariance * ops.exp(-log_error[:, :, None] - log_error[:, None])
                rows, columns = np.tril_indices(n, -1)
                figures.append(ops.take(ops.reshape(scaled, (-1, n * n)), rows * n + columns, axis=1))
            if i == 0:
                figures.append(ops.arcsinh(gradient[..., 0]))
        if not seen:
            figures.append(ops.zeros_like(u))

        # As one product: TensorFlow's own rewriting of two quotients in a row loses their shape.
        per_radius = ops.reshape(0.5 / self.mass.from_real(u)[:, 0], (-1, 1, 1)) * ops.ones_like(residual)
        maps = [
            ops.arcsinh(residual) / 2.0,
            ops.arcsinh(20.0 * problem.data) / 3.0,
            ops.arcsinh(20.0 * model_image) / 3.0,
            ops.cast(weight > 0, u.dtype),
            self.x * per_radius,
            self.y * per_radius,
            ops.sqrt(self.x**2 + self.y**2) * per_radius,
        ]
        in_noise = ops.arcsinh(tangents * root[:, None]) / 2.0
        of_image = ops.concatenate([ops.stack(maps, axis=-1), ops.moveaxis(in_noise, 1, -1)], axis=-1)

        # How far the model image is off where the lens is by its own error, seen from the source.
        off = ops.sqrt(ops.sum(tangents**2, axis=1))
        off = problem.operator.adjoint(weight * off) / problem.curvature_bound
        doubt = ops.mean(at["log_sigma"] - ops.log(spread), axis=1)
        everywhere = ops.ones_like(off)
        of_source = [ops.arcsinh(20.0 * off), chi2[:, None, None] * everywhere, doubt[:, None, None] * everywhere]
        return ops.stack(of_source, axis=-1), of_image, ops.concatenate(figures, axis=-1) / 3.0, steps

    def update(self, at, seen, state):
        """Changes of all that `at` holds, and the state of the cell."""
        step, of_source, of_image, figures, steps = seen
        model = self.model
        x = ops.concatenate([ops.stack([INPUTS[name](step) for name in _SEEN], axis=-1), of_source], axis=-1)
        output, state = model.cell(ops.cast(x, model.compute_dtype), state)
        output = ops.cast(output, at["latent"].dtype)

        seen = [ops.cast(each, model.compute_dtype) for each in (of_image, figures, at["memory"])]
        if model.config.encoder:
            seen[1] = ops.concatenate([model.encoder(seen[0]), seen[1]], axis=-1)
        raw, memory = model.controller(*seen[1:])
        raw = ops.cast(raw, at["u"].dtype)
        own, *gates, wider = ops.split(raw, n_moves(model.config), axis=-1)
        own = _LONGEST * ops.tanh(own / _LONGEST)
        for gate, newton, first in zip(gates, steps, _FIRST_GATES[: len(steps)], strict=True):
            own = own + ops.sigmoid(gate + first) * newton
        return {
            "u": ops.exp(at["log_sigma"]) * own,
            "log_sigma": _FASTEST * ops.tanh(wider),
            "latent": output[..., 0] + output[..., 1] * step.newton(),
            "log_error": output[..., 2],
            "memory": ops.cast(memory, at["memory"].dtype) - at["memory"],
        }, state


# The errors that a network is told of its start are so much wider than the estimator's: it is trained from draws too.
WIDER = 1.2
# And no smaller, [coordinates without bounds]: all that it does is in units of them.
_LEAST_START_ERROR = 1e-4


def first_guess(estimator, inputs):
    """What a `JointRIM` starts from: `inputs` with the mean of an estimator's posterior, and its errors.

    It is of the images as they are, without their mirror images, so that training does not see four times as many.

    Args:
      estimator: `rim_tf.models.estimator.Estimator` of the same mass model.
      inputs: as of `Estimator.call`.

    Returns:
      The dictionary with `start` and `start_error`, in coordinates without bounds, [batch, parameters] each.
    """
    start, error = mixture.moments(estimator.as_it_is(inputs).head)
    return inputs | {"start": start, "start_error": error}


def from_samples(samples, mass):
    """`start` and `start_error` of a `JointRIM` from lenses drawn from what is known of it.

    Args:
      samples: [batch, n, parameters].
      mass: `MassModel`.

    Returns:
      Dictionary of both, in coordinates without bounds, [batch, parameters] each.
    """
    batch, n, size = ops.shape(samples)
    u = ops.reshape(mass.to_real(ops.reshape(samples, (-1, size))), (batch, n, size))
    return {"start": ops.mean(u, axis=1), "start_error": WIDER * ops.maximum(ops.std(u, axis=1), _LEAST_START_ERROR)}
