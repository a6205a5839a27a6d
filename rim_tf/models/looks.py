"""The estimator at work: it looks at the whole frame and at smaller fields in its middle, and one look is the surest.

Where the ring takes up a small part of the frame the estimator is lost, and says so: of all looks that one counts that
is surest of the Einstein radius.
"""

from keras import ops

from rim_tf.models.mixture import LensPosterior

# Widths of the fields that are looked at, as shares of the frame's shorter side, and by what the uncertainty of each
# is multiplied before they are compared: of a field in which there is no ring, the core of the lens galaxy seems one.
LOOKS = ((1.0, 1.0), (0.75, 1.0), (0.55, 1.2), (0.4, 2.0), (0.3, 3.0))
# Fewer pixels of the frame than this show no ring.
LEAST_FIELD = 24
# What of a batch the estimator reads.
SEEN = ("image", "noise_rms", "mask", "psf", "pixel_scale")
# Samples that moments are taken of: the bijection is not linear.
_SAMPLES = 2000


def see(estimator, inputs):
    """What the estimator puts out for every field of a batch of images.

    Args:
      estimator: `rim_tf.models.estimator.Estimator`.
      inputs: dictionary of tensors, as of `rim_tf.models.estimator.View`.

    Returns:
      Heads of the posteriors, [batch * looks, components, columns]; width of each field [arcsec], [batch, looks]; and
      what the uncertainty in each is multiplied by, [looks]: infinite below LEAST_FIELD pixels, unless it is the frame.
    """
    n, scale = len(LOOKS), ops.convert_to_tensor(inputs["pixel_scale"])
    shares, factors = (ops.convert_to_tensor(column, dtype=scale.dtype) for column in zip(*LOOKS, strict=True))
    rows, columns = ops.shape(inputs["image"])[1:]
    pixels = shares * ops.cast(ops.minimum(rows, columns), scale.dtype)
    field = scale[:, None] * pixels
    repeated = {name: ops.repeat(inputs[name], n, axis=0) for name in SEEN}
    head = estimator.posterior(repeated, ops.reshape(field, (-1,))).head
    return head, field, ops.where((pixels >= LEAST_FIELD) | (shares == 1), factors, float("inf"))


def judge(head, field, factor, mass, seed=0):
    """The lens that each look has found, and how much each is to be doubted.

    Args:
      head: as of `see`, and so the next two.
      field: likewise.
      factor: likewise.
      mass: `MassModel` of the estimator.
      seed: of the samples, from 0 to 2^30. All systems get the same random numbers, so that what is said of one does
        not depend on those beside it.

    Returns:
      Dictionary of tensors [batch, looks, ...]:
        samples: lenses drawn from the posterior, [..., n, parameters].
        lens: their mean, [..., parameters]; of theta_E the median, since its tails are long.
        covariance: of the samples, [..., parameters, parameters].
        field: as given.
        doubt: standard deviation of theta_E over theta_E, times `factor`: the look of the smallest counts.
    """
    n, size, radius = len(LOOKS), mass.size, mass.radius
    samples = LensPosterior(head, mass).sample(_SAMPLES, seed, shared=True)
    lens, covariance = _moments(samples, radius)
    return {
        "samples": ops.reshape(samples, (-1, n, _SAMPLES, size)),
        "lens": ops.reshape(lens, (-1, n, size)),
        "covariance": ops.reshape(covariance, (-1, n, size, size)),
        "field": field,
        "doubt": ops.reshape(ops.sqrt(covariance[:, radius, radius]) / lens[:, radius], (-1, n)) * factor,
    }


def surest(looks):
    """Of what `judge` returns that of the surest field, a dictionary of tensors [batch, ...]."""
    best = ops.argmin(looks["doubt"], axis=1)[:, None]
    return {
        name: ops.take_along_axis(each, ops.reshape(best, (-1,) + (1,) * (len(each.shape) - 1)), axis=1)[:, 0]
        for name, each in looks.items()
    }


def _moments(samples, radius):
    """Centre and covariance of samples [batch, n, parameters], as `judge` states them; column `radius` is theta_E."""
    n = samples.shape[1]
    mean = ops.mean(samples, axis=1)
    offset = samples - mean[:, None]
    covariance = ops.matmul(ops.swapaxes(offset, 1, 2), offset) / (n - 1)
    ordered = ops.sort(samples[:, :, radius], axis=1)
    median = (ordered[:, (n - 1) // 2] + ordered[:, n // 2]) / 2
    return ops.concatenate([mean[:, :radius], median[:, None], mean[:, radius + 1 :]], axis=1), covariance
