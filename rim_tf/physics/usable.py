"""Which systems of a batch can be used, where nobody can be told before the batch is made up.

`Observation` and `lens` refuse what is wrong with one lens, in Python. A graph gets tensors, maybe those of several
callers in one batch, and what is wrong with one system must not harm another.
"""

from keras import ops

# A stamp's sum may be so far from 1; float32 and a stamp that was cut off are nearer.
_SUM = 0.01


def checks(inputs, mass):
    """{name: boolean [batch]}: whether each input of a system is what `rim_tf_client.status` says that it must be.

    Args:
      inputs: dictionary of tensors, as `rim_tf.systems` describes them; those that it lacks are not looked at.
      mass: `MassModel`, to which the columns of inputs["lens"] belong.
    """
    unused = ops.logical_not(inputs.get("mask", True))

    def psf(psf):
        if len(psf.shape) == 1:
            return ops.isfinite(psf) & (psf >= 0)
        return _all(ops.isfinite(psf)) & (ops.abs(ops.sum(psf, axis=(1, 2)) - 1) < _SUM)

    def positive(value):
        return ops.isfinite(value) & (value > 0)

    known = {
        "image": lambda image: _all(ops.isfinite(image) | unused),
        "noise_rms": lambda noise: _all(positive(noise) | unused),
        "mask": lambda mask: ops.any(mask, axis=(1, 2)),
        "psf": psf,
        "lens": mass.allows,
        "pixel_scale": positive,
        "source_pixel_scale": positive,
        "source": lambda source: _all(ops.isfinite(source)),
        "strength": positive,
        "regularisation": lambda order: (order >= 0) & (order <= 2),
        "prior_mean": lambda mean: _all(ops.isfinite(mean)),
    }
    return {name: check(inputs[name]) for name, check in known.items() if name in inputs}


def with_stand_ins(inputs, usable, mass):
    """The same batch, with numbers that do no harm in the place of systems that cannot be used.

    NaN would not stay within its system: as the place of a ray it is no index of any source pixel.

    Args:
      inputs: as of `checks`.
      usable: boolean [batch].
      mass: as of `checks`.
    """
    lens = mass.from_real(ops.zeros((1, mass.size)))
    plain = {"image": 0.0, "noise_rms": 1.0, "mask": True, "pixel_scale": 1.0, "source_pixel_scale": 1.0, "lens": lens}
    plain |= {"source": 0.0, "strength": 1.0, "regularisation": 1, "prior_mean": 0.0}
    if "psf" in inputs:
        plain["psf"] = 0.0 if len(inputs["psf"].shape) == 1 else 1 / ops.prod(ops.shape(inputs["psf"])[1:])
    filled = dict(inputs)
    for name in set(inputs) & set(plain):
        value, stand_in = inputs[name], plain[name]
        chosen = ops.reshape(usable, (-1,) + (1,) * (len(value.shape) - 1))
        filled[name] = ops.where(chosen, value, ops.cast(stand_in, value.dtype))
    return filled


def _all(each):
    """Of a boolean [batch, ...], [batch]."""
    return ops.all(each, axis=tuple(range(1, len(each.shape))))
