"""How good a reconstruction is (Section 3): arrays in, arrays out.

`source` is the truth and `estimate` what was made of it, both [..., n, m] on one grid; every function takes any number
of systems along the leading axes. `bootstrap` says how far a figure of n systems can be trusted.
"""

import numpy as np

from rim_tf.results import correlation_of_neighbours

# Of a normal distribution, the mean plus and minus one standard deviation is the 16th to 84th percentile.
ONE_SIGMA = (16.0, 84.0)


def rms_error(source, estimate):
    """Root-mean-square error over all pixels in units of the true peak: [..., n, m] each -> [...]."""
    error2 = np.mean((np.asarray(estimate, float) - source) ** 2, axis=(-2, -1))
    return np.sqrt(error2) / np.max(np.abs(source), axis=(-2, -1))


def aligned_rms(source, estimate):
    """`rms_error` after the best shift, scale and rotation of the estimate, of one source: [n, m] each -> number.

    A lens that is off by its own errors moves, stretches or turns the source and leaves it as good as before.
    """
    from scipy import ndimage, optimize

    source, estimate = np.asarray(source, float), np.asarray(estimate, float)
    middle = (np.array(source.shape) - 1) / 2
    rows, columns = (np.indices(source.shape) - middle[:, None, None]) / middle.max()

    def moved(parameters):
        shift_rows, shift_columns, log_scale, angle = parameters
        cosine, sine = np.exp(log_scale) * np.cos(angle), np.exp(log_scale) * np.sin(angle)
        there = [cosine * rows - sine * columns + shift_rows, sine * rows + cosine * columns + shift_columns]
        place = np.stack(there) * middle.max() + middle[:, None, None]
        return ndimage.map_coordinates(estimate, place, order=1, mode="constant")

    # A first guess of the shift, from the centres of light: beyond a clump's size there is no slope to follow.
    centres = [
        [np.sum(np.maximum(image, 0) * axis) / max(np.sum(np.maximum(image, 0)), 1e-300) for axis in (rows, columns)]
        for image in (source, estimate)
    ]
    starts = [np.zeros(4), np.r_[np.subtract(centres[1], centres[0]), 0, 0]]
    found = [
        optimize.least_squares(lambda p: (moved(p) - source).ravel(), start, diff_step=1e-3, max_nfev=30)
        for start in starts
    ]
    best = min(found, key=lambda each: each.cost)
    return float(min(rms_error(source, moved(best.x)), rms_error(source, estimate)))


def flux_error(source, estimate):
    """Relative error of the summed surface brightness, with its sign: [..., n, m] each -> [...]."""
    flux = np.sum(source, axis=(-2, -1), dtype=float)
    return np.sum(estimate, axis=(-2, -1), dtype=float) / flux - 1


def negative_flux(estimate):
    """The light in negative pixels over that in all, which no source has: [..., n, m] -> [...], at least 0."""
    absolute = np.sum(np.abs(estimate), axis=(-2, -1), dtype=float)
    return -np.sum(np.minimum(estimate, 0.0), axis=(-2, -1), dtype=float) / np.maximum(absolute, 1e-300)


def image_quality(source, estimate):
    """PSNR [dB] and SSIM as TensorFlow defines them, the true peak being the range of values: two arrays [...].

    SSIM is the mean over an 11 x 11 Gaussian window, so each side must have 11 pixels.
    """
    import tensorflow as tf  # here, so that the arithmetic above does not wait for it

    source, estimate = np.asarray(source, np.float32), np.asarray(estimate, np.float32)
    peak = np.max(np.abs(source), axis=(-2, -1), keepdims=True)
    images = [tf.constant((image / peak)[..., None]) for image in (source, estimate)]
    return tf.image.psnr(*images, max_val=1.0).numpy(), tf.image.ssim(*images, max_val=1.0).numpy()


# -------------------------------------------------------------------------------------------- against the data


def chi2_per_pixel(data, model_image, noise_rms, mask):
    """Mean squared residual in units of the noise over the unmasked pixels: [..., rows, columns] -> [...]."""
    residual2 = np.where(mask, ((data - model_image) / noise_rms) ** 2, 0.0)
    return np.sum(residual2, axis=(-2, -1), dtype=float) / np.sum(mask, axis=(-2, -1))


def residual_whiteness(residual, mask):
    """Correlation of neighbouring residuals, and how significant it is.

    Over the N pairs of neighbours along rows and along columns, white noise of unit variance has a sum of products
    r_i r_j with mean 0 and variance N, because different pairs are uncorrelated; so sum / sqrt(N) is a standard
    normal number, were the model the truth. Positive: structure that the model lacks. Negative: noise was fitted.

    Args:
      residual: data minus model in units of the noise, [..., rows, columns].
      mask: true where a pixel is used, the same shape.

    Returns:
      The correlation coefficient, which does not depend on the noise's scale, and sum / sqrt(N): two arrays [...].
    """
    correlation, products, n_pairs = correlation_of_neighbours(residual, mask)
    return correlation, products / np.sqrt(n_pairs)


def prior_distance(truth_log_prior, log_prior):
    """How much likelier a source is than the truth under the linear model's prior, in sigmas with a sign: [...].

    A Gaussian falls by sigma^2 / 2 in its logarithm, so a difference d is sqrt(2 |d|) sigmas. The paper's truth lies
    85 below its linear inversion, which it calls 13 sigma. Above 0, the prior prefers the source to the truth.
    """
    difference = np.asarray(log_prior, float) - truth_log_prior
    return np.sign(difference) * np.sqrt(2 * np.abs(difference))


# ------------------------------------------------------------------------------------- coherence, Equation 8


def radial_power(source, estimate):
    """Cross power P12 and powers P11, P22, each averaged over rings of equal wavenumber (Eq. 8).

    Ring j holds the Fourier modes with |k| from j - 1/2 to j + 1/2 cycles per field. It holds -k with every k, and of
    real images the two have conjugate spectra: the mean of F1 F2* over a ring is real. It keeps its sign, since a
    modulus, taken of each mode, would count unrelated structure as common.

    Args:
      source: [..., n, n].
      estimate: the same shape.

    Returns:
      P12, P11, P22, each [..., n // 2 + 1], at k = 0, 1, ..., n // 2 cycles per field.
    """
    n = source.shape[-1]
    if source.shape[-2] != n or estimate.shape != source.shape:
        raise ValueError(f"source and estimate have shapes {source.shape}, {estimate.shape}; wanted the same square.")
    f1, f2 = np.fft.fft2(np.asarray(source, float)), np.fft.fft2(np.asarray(estimate, float))
    k = np.fft.fftfreq(n, 1 / n)
    ring = np.rint(np.hypot(k[:, None], k)).astype(int).ravel()
    n_rings = n // 2 + 1
    within = ring < n_rings
    weight = np.zeros((n * n, n_rings))
    weight[np.flatnonzero(within), ring[within]] = 1.0
    weight /= weight.sum(axis=0)
    powers = (f1 * np.conj(f2)).real, np.abs(f1) ** 2, np.abs(f2) ** 2
    return tuple(power.reshape(*power.shape[:-2], n * n) @ weight for power in powers)


def coherence(p12, p11, p22):
    """Eq. 8 of averaged powers of any shape, with its sign; 0 where one of the images has no power at all."""
    norm = np.sqrt(p11 * p22)
    return np.where(norm > 0, p12 / np.where(norm > 0, norm, 1.0), 0.0)


def mean_coherence(powers, weights):
    """The paper's Figure 5: the coherence of each system, averaged over systems, and the modulus of that.

    Args:
      powers: (P12, P11, P22) of `radial_power`, [n_systems, n_k] each.
      weights: how often each system counts, [..., n_systems].

    Returns:
      [..., n_k].
    """
    return np.abs(weights @ coherence(*powers)) / np.sum(weights, axis=-1, keepdims=True)


def pooled_coherence(powers, weights):
    """Eq. 8 with the averages taken over all systems, arguments and result as of `mean_coherence`.

    A system counts by its power, so that small-scale structure is judged where there is any.
    """
    return np.abs(coherence(*(weights @ power for power in powers)))


# --------------------------------------------------------------------------------------- how sure a figure is


def bootstrap(values, statistic, n_draws=500, seed=0):
    """A statistic of a sample and its error, from samples drawn out of it with replacement.

    Args:
      values: [n].
      statistic: function (values [..., n], axis) -> [...], like np.median.
      n_draws: how many samples are drawn.
      seed: of the draws.

    Returns:
      Dictionary of value, error (standard deviation over the draws), low and high (their 16th and 84th percentile)
      and n. NaN throughout where n is 0 or a value is NaN; without an error where n is 1.
    """
    from scipy import stats  # here, so that the arithmetic above does not wait for it

    values = np.asarray(values, float)
    if len(values) == 0 or np.isnan(values).any():
        return _figure(np.nan, np.nan, np.nan, np.nan, len(values))
    value = statistic(values, axis=-1)
    if len(values) == 1:
        return _figure(value, 0.0, value, value, 1)
    drawn = stats.bootstrap(
        (values,),
        statistic,
        n_resamples=n_draws,
        confidence_level=(ONE_SIGMA[1] - ONE_SIGMA[0]) / 100,
        method="percentile",
        vectorized=True,
        rng=np.random.default_rng(seed),
    )
    return _figure(value, np.std(drawn.bootstrap_distribution), *drawn.confidence_interval, len(values))


def percentage(hits):
    """The percentage of true among `hits` [n], with the keys of `bootstrap` and Wilson's interval of one sigma.

    Where all of a sample are alike, as where one method always wins, a bootstrap would say that there is no error.
    """
    from scipy import stats

    n = len(hits)
    if n == 0:
        return _figure(np.nan, np.nan, np.nan, np.nan, 0)
    found = stats.binomtest(int(np.sum(hits)), n)
    interval = found.proportion_ci(confidence_level=2 * stats.norm.cdf(1) - 1, method="wilson")
    low, high = 100 * interval.low, 100 * interval.high
    return _figure(100 * found.statistic, (high - low) / 2, low, high, n)


def _figure(value, error, low, high, n):
    return {"value": float(value), "error": float(error), "low": float(low), "high": float(high), "n": n}


def bootstrap_weights(n, n_draws=500, seed=0):
    """How often each of n systems is in each of `n_draws` samples drawn with replacement, [n_draws, n]."""
    return np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=n_draws).astype(float)
