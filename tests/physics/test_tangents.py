"""Derivatives of model images in the lens are those of differences of images, and what a source can do is taken out."""

import numpy as np
import pytest
from gradients import array, tensor, whole
from numpy.testing import assert_allclose
from registry import IMAGE, IMAGE_SCALE, LENSES, SOURCE, SOURCE_SCALE, stamps

from rim_tf.physics.imaging import imaging_problem
from rim_tf.physics.mass.model import SIE_SHEAR, MassModel
from rim_tf.physics.tangents import Tangents

POWER_LAW = MassModel(("power_law", "shear"))
# Whose size is not its first column.
SHEAR_FIRST = MassModel(("shear", "sie"))


def systems(mass, lenses):
    inputs = {
        "image": np.zeros(IMAGE),
        "noise_rms": np.full(IMAGE, 0.1),
        "psf": stamps(3, 5),
        "pixel_scale": IMAGE_SCALE,
        "source_pixel_scale": SOURCE_SCALE,
        "lens": lenses,
    }
    inputs = {name: tensor(value) for name, value in inputs.items()} | {"mask": tensor(np.ones(IMAGE)) > 0}
    return inputs, Tangents(inputs, SOURCE[1:], mass)


@pytest.mark.parametrize("mass", [SIE_SHEAR, POWER_LAW, SHEAR_FIRST], ids=["sie", "power law", "shear first"])
def test_tangents_are_the_slopes_of_model_images(mass, rng):
    lenses = LENSES + [0, 0, 0, 0.07, 0.11, 0, 0]  # no pixel is on the singular centre
    if mass is POWER_LAW:
        lenses = np.insert(lenses, 1, [2.1, 1.8], axis=1)
    if mass is SHEAR_FIRST:
        lenses = np.roll(lenses * [1, 1, 1, 1, 1, 0, 0], 2, axis=1)
    inputs, tangents = systems(mass, lenses)
    source, u = tensor(rng.uniform(size=SOURCE)), mass.to_real(tensor(lenses))

    @whole
    def image(u):
        problem = imaging_problem(inputs | {"lens": mass.from_real(u)}, SOURCE[1:], mass)
        return problem.model_image(source)

    found = array(whole(lambda u: tangents(source, u, tangents.lensing(mass.from_real(u))))(u))
    for i in range(mass.size):
        moved = 1e-6 * np.eye(mass.size)[i]
        expected = (array(image(u + tensor(moved))) - array(image(u - tensor(moved)))) / 2e-6
        # The profile's own curvature over the difference, which is far below what a step needs.
        assert_allclose(found[:, i], expected, atol=0.02 * np.abs(expected).max())


def test_no_source_could_have_made_what_is_left(rng):
    inputs, tangents = systems(SIE_SHEAR, LENSES)
    problem = imaging_problem(inputs, SOURCE[1:])
    lensing = tangents.lensing(inputs["lens"])
    lensed = problem.model_image(tensor(rng.uniform(size=SOURCE)))
    columns = np.repeat(array(lensed)[:, None], SIE_SHEAR.size, axis=1)
    given = lensing, problem.weight, problem.curvature_bound
    left = [array(tangents.projected(tensor(columns), *given, n)) for n in (1, 10, 80)]
    sizes = [np.sqrt((each**2).sum()) for each in (columns, *left)]
    assert sizes[0] > sizes[1] > sizes[2] > sizes[3]
    assert sizes[3] < 0.3 * sizes[0]
    # Not so what lies where the source is dark: the residual of least squares stays.
    noise = rng.normal(size=columns.shape)
    kept = array(tangents.projected(tensor(noise), *given, 80))
    assert ((kept * noise).sum((2, 3)) > 0.2 * (noise**2).sum((2, 3))).all()
