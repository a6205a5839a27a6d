"""One lensing task in several packages: the worker of simulation.py and physics.py, run in either interpreter.

    python peers_lensing.py THREADS NAME INPUTS.npz

The inputs: lens [n, 7] in rim_tf's order, source [n, 192, 192], psf [k, k], image_scale, source_scale [arcsec]. A case
is {"task": "forward", "source" or "lens and source", "blur": true or false, "batch": b}: the image of the first b
systems, or the image and the gradient of half the sum of its squares. All in float32 but lenstronomy, which has
float64. Every package is used as its documentation does; conventions are translated here and nowhere else.
"""

import sys
import warnings

from timing import limit_threads, serve

if __name__ == "__main__":
    limit_threads(int(sys.argv[1]))

import numpy as np

warnings.simplefilter("ignore")


class Task:
    """The inputs of one case, as NumPy arrays."""

    def __init__(self, path, case):
        with np.load(path, allow_pickle=False) as inputs:
            self.lens = inputs["lens"][: case["batch"]].astype(np.float32)
            self.source = inputs["source"][: case["batch"]].astype(np.float32)
            self.image_scale, self.source_scale = float(inputs["image_scale"]), float(inputs["source_scale"])
            self.sigma = float(inputs["sigma"])
            self.psf = inputs["psf"].astype(np.float32) if case["blur"] else None
        self.n, self.batch = self.source.shape[-1], case["batch"]
        self.wanted = {"forward": (), "source": (1,), "lens and source": (0, 1)}[case["task"]]


def _named(outputs, task):
    """Names for the image or for (gradients), as `check` reads them."""
    if not task.wanted:
        return {"image": np.asarray(outputs)}
    names = ("lens_gradient", "source_gradient")
    return {names[i]: np.asarray(value) for i, value in zip(task.wanted, outputs, strict=True)}


def rim_tf_image(task, gaussian):
    """rim_tf's function of (lens, source, psf) on whichever backend Keras has; psf is ignored without blur."""
    from rim_tf.grids import PixelGrid
    from rim_tf.physics.lensing import LensingOperator
    from rim_tf.physics.psf import blur_operator

    def image(lens, source, psf):
        image_grid = PixelGrid(task.n, task.n, np.float32(task.image_scale))
        source_grid = PixelGrid(task.n, task.n, np.float32(task.source_scale))
        lensed = LensingOperator.from_lens(lens, image_grid, source_grid).forward(source)
        return lensed if psf is None else blur_operator(psf, image_grid).forward(lensed)

    if task.psf is None:
        return image, None
    if gaussian:
        return image, np.full(task.batch, task.sigma, np.float32)
    return image, np.repeat(task.psf[None], task.batch, axis=0)


def rim_tf_tensorflow(task, jit_compile, gaussian=False):
    import tensorflow as tf

    image, psf = rim_tf_image(task, gaussian)

    def wanted(lens, source, psf):
        if not task.wanted:
            return image(lens, source, psf)
        at = [(lens, source)[i] for i in task.wanted]
        with tf.GradientTape() as tape:
            tape.watch(at)
            total = tf.reduce_sum(image(lens, source, psf) ** 2) / 2
        return tape.gradient(total, at)

    compiled = tf.function(wanted, jit_compile=jit_compile)
    arguments = [None if x is None else tf.constant(x) for x in (task.lens, task.source, psf)]

    def call():
        # TensorFlow returns from a CPU function when it is done; the read-out makes sure, at no cost.
        outputs = compiled(*arguments)
        tf.nest.flatten(outputs)[0][0].numpy()
        return outputs

    return call, lambda: _named(call(), task)


def rim_tf_jax(task, gaussian=False):
    import jax
    import jax.numpy as jnp

    image, psf = rim_tf_image(task, gaussian)
    wanted = image
    if task.wanted:
        wanted = jax.grad(lambda *xs: jnp.sum(image(*xs) ** 2) / 2, argnums=task.wanted)
    return _jax_call(jax.jit(wanted), (task.lens, task.source, psf), task)


def rim_tf_simulate_batch(task):
    """What training draws: placed galaxies, refusals, PSF and noise; of the task only the batch is taken."""
    import tensorflow as tf

    from rim_tf.config import MockConfig
    from rim_tf.data.mocks import GalaxyStamps
    from rim_tf.data.sources.procedural import procedural_galaxies
    from rim_tf.data.streaming import simulate_batch

    images = procedural_galaxies(32, "test", 1).images
    stamps = GalaxyStamps(images, np.full(len(images), 18.0))
    config = MockConfig(image_pixels=task.n, source_pixels=task.n, log_pixel_scale=(task.image_scale,) * 2)
    seed, count = tf.constant([1, 0]), iter(range(1 << 30))
    simulate = tf.function(lambda index: simulate_batch(seed, index, task.batch, stamps, config)[0]["image"])

    def call():
        return simulate(tf.constant(next(count))).numpy()

    return call, lambda: {"image": call()}


def _jax_call(compiled, arguments, task):
    import jax
    import jax.numpy as jnp

    arguments = [None if x is None else jnp.asarray(x) for x in arguments]

    def call():
        return jax.block_until_ready(compiled(*arguments))

    return call, lambda: _named(call(), task)


def caustics(task, compiled, psf_mode="fft"):
    import caustics
    import torch

    torch.set_num_threads(int(sys.argv[1]))
    cosmology = caustics.FlatLambdaCDM(name="cosmology")
    sie = caustics.SIE(cosmology=cosmology, name="sie")
    shear = caustics.ExternalShear(cosmology=cosmology, name="shear", x0=0.0, y0=0.0)
    lens = caustics.SinglePlane(cosmology=cosmology, name="lens", lenses=[sie, shear], z_l=0.5, z_s=1.0)
    source = caustics.Pixelated(name="source", x0=0.0, y0=0.0, pixelscale=task.source_scale, shape=(task.n, task.n))
    psf = {} if task.psf is None else {"psf": torch.tensor(task.psf)}
    simulator = caustics.LensSource(
        lens, source, pixelscale=task.image_scale, pixels_x=task.n, psf_mode=psf_mode, **psf
    )
    simulator.to(dtype=torch.float32)

    def one(p, pixels):
        theta_E, e1, e2, x, y, gamma1, gamma2 = p.unbind()
        modulus = torch.sqrt(e1**2 + e2**2)
        q, phi = (1 - modulus) / (1 + modulus), torch.atan2(e2, e1) / 2
        return simulator([x, y, q, phi, theta_E, gamma1, gamma2, pixels])

    wanted = torch.vmap(one)
    if task.wanted:
        image = wanted
        wanted = torch.func.grad(lambda *xs: (image(*xs) ** 2).sum() / 2, argnums=task.wanted)
    if compiled:
        wanted = torch.compile(wanted, dynamic=False)
    arguments = torch.tensor(task.lens), torch.tensor(task.source)

    def call():
        with torch.no_grad():
            return wanted(*arguments)

    return call, lambda: _named(call(), task)


def herculens(task):
    import jax
    import jax.numpy as jnp
    from herculens.Coordinates.pixel_grid import PixelGrid
    from herculens.Instrument.psf import PSF
    from herculens.LensImage.lens_image import LensImage
    from herculens.LightModel.light_model import LightModel
    from herculens.LightModel.Profiles.pixelated import Pixelated
    from herculens.MassModel.mass_model import MassModel

    corner = -(task.n - 1) / 2 * task.image_scale
    grid = PixelGrid(task.n, task.n, task.image_scale * np.eye(2), corner, corner)
    psf = PSF("NONE") if task.psf is None else PSF("PIXEL", kernel_point_source=task.psf)
    # num_pixels would be ignored, source and image having the same number; the ratio of the scales is not.
    width = task.n * task.source_scale
    source_model = LightModel(
        [Pixelated("bilinear")],
        kwargs_pixelated={
            "pixel_scale_factor": task.source_scale / task.image_scale,
            "grid_center": (0.0, 0.0),
            "grid_shape": (width, width),
        },
    )
    model = LensImage(grid, psf, lens_mass_model_class=MassModel(["SIE", "SHEAR"]), source_model_class=source_model)

    def one(p, pixels):
        theta_E, e1, e2, x, y, gamma1, gamma2 = p
        lens = [
            {"theta_E": theta_E, "e1": e1, "e2": e2, "center_x": x, "center_y": y},
            {"gamma1": gamma1, "gamma2": gamma2, "ra_0": 0.0, "dec_0": 0.0},
        ]
        options = {"lens_light_add": False, "point_source_add": False}
        return model.model(kwargs_lens=lens, kwargs_source=[{"pixels": pixels}], **options)

    wanted = jax.vmap(one)
    if task.wanted:
        image = wanted
        wanted = jax.grad(lambda *xs: jnp.sum(image(*xs) ** 2) / 2, argnums=task.wanted)
    return _jax_call(jax.jit(wanted), (task.lens, task.source), task)


def lenstronomy(task):
    from lenstronomy.Data.imaging_data import ImageData
    from lenstronomy.Data.psf import PSF
    from lenstronomy.ImSim.image_model import ImageModel
    from lenstronomy.LensModel.lens_model import LensModel
    from lenstronomy.LightModel.light_model import LightModel

    if task.wanted:
        raise NotImplementedError("has no gradients")
    corner = -(task.n - 1) / 2 * task.image_scale
    data = ImageData(
        image_data=np.zeros((task.n, task.n)),
        ra_at_xy_0=corner,
        dec_at_xy_0=corner,
        transform_pix2angle=task.image_scale * np.eye(2),
    )
    psf = PSF("NONE") if task.psf is None else PSF("PIXEL", kernel_point_source=task.psf.astype(float))
    lens_model = LensModel(["SIE", "SHEAR"])
    area = task.image_scale**2

    def one(p, pixels):
        theta_E, e1, e2, x, y, gamma1, gamma2 = map(float, p)
        lens = [
            {"theta_E": theta_E, "e1": e1, "e2": e2, "center_x": x, "center_y": y},
            {"gamma1": gamma1, "gamma2": gamma2, "ra_0": 0.0, "dec_0": 0.0},
        ]
        # A new model for each source: its interpolator is made once and kept.
        model = ImageModel(data, psf, lens_model, LightModel(["INTERPOL"]))
        source = {"image": pixels, "amp": 1.0, "center_x": 0.0, "center_y": 0.0, "phi_G": 0.0}
        return model.image(lens, [source | {"scale": task.source_scale}]) / area

    def call():
        return np.stack([one(p, pixels) for p, pixels in zip(task.lens, task.source.astype(float), strict=True)])

    return call, lambda: {"image": call()}


CONTENDERS = {
    "rim_tf graph": lambda task: rim_tf_tensorflow(task, jit_compile=False),
    "rim_tf XLA": lambda task: rim_tf_tensorflow(task, jit_compile=True),
    "rim_tf JAX": rim_tf_jax,
    "rim_tf graph, Gaussian PSF": lambda task: rim_tf_tensorflow(task, jit_compile=False, gaussian=True),
    "rim_tf XLA, Gaussian PSF": lambda task: rim_tf_tensorflow(task, jit_compile=True, gaussian=True),
    "rim_tf simulate_batch": rim_tf_simulate_batch,
    "caustics compiled": lambda task: caustics(task, compiled=True),
    "caustics compiled, PSF by conv2d": lambda task: caustics(task, compiled=True, psf_mode="conv2d"),
    "caustics eager": lambda task: caustics(task, compiled=False),
    "herculens jit": herculens,
    "lenstronomy": lenstronomy,
}


if __name__ == "__main__":
    serve(lambda case: CONTENDERS[sys.argv[2]](Task(sys.argv[3], case)))
