"""All by which results are judged, as columns: studies, published weights and ablations judge by these alone.

A column holds one value, or one row, for each of n systems, {name: [n, ...]}. What each of them is, and its unit, says
the function of `rim_tf.evaluation.metrics` that computes it.
"""

import numpy as np

from rim_tf.evaluation import metrics


def of_sources(truth, estimate):
    """Sources against the truth.

    Args:
      truth: the true sources, [n, m, m]; m at least 11, as SSIM has windows of so many pixels.
      estimate: what was made of them, on the same grids, [n, m, m].

    Returns:
      Columns rms, flux_error, negative_flux, psnr, ssim, each [n]; p12, p11, p22, the powers of which the coherence
      is made, each [n, m // 2 + 1].
    """
    truth, estimate = np.asarray(truth, float), np.asarray(estimate, float)
    psnr, ssim = metrics.image_quality(truth, estimate)
    p12, p11, p22 = metrics.radial_power(truth, estimate)
    return {
        "rms": metrics.rms_error(truth, estimate),
        "flux_error": metrics.flux_error(truth, estimate),
        "negative_flux": metrics.negative_flux(estimate),
        "psnr": psnr.astype(float),
        "ssim": ssim.astype(float),
        "p12": p12,
        "p11": p11,
        "p22": p22,
    }


def of_images(model_images, data, noise_rms, mask):
    """Model images against the data.

    Args:
      model_images: [n, rows, columns].
      data: what was observed, the same shape.
      noise_rms: its standard deviation, the same shape.
      mask: true where a pixel is used, the same shape.

    Returns:
      Columns chi2_per_pixel, correlation and whiteness (of the residuals), each [n].
    """
    mask = np.asarray(mask, bool)
    correlation, whiteness = metrics.residual_whiteness((data - model_images) / noise_rms, mask)
    return {
        "chi2_per_pixel": metrics.chi2_per_pixel(data, model_images, noise_rms, mask),
        "correlation": correlation,
        "whiteness": whiteness,
    }


def of_prior(truth, estimate, prior):
    """What a Gaussian prior goes by: lambda s^T H s follows chi^2 with as many degrees of freedom as H has rank.

    Args:
      truth: the true sources, [n, m, m].
      estimate: what was made of them, [n, m, m].
      prior: `rim_tf.inference.linear.regularisation.Regularisation` of that shape.

    Returns:
      Columns roughness (s^T H s of the estimate), truth_roughness and prior_rank, each [n].
    """
    return {
        "roughness": _quadratic(estimate, prior),
        "truth_roughness": _quadratic(truth, prior),
        "prior_rank": np.full(len(truth), float(prior.rank)),
    }


def _quadratic(sources, prior):
    sources = np.asarray(sources, float)
    return np.sum(sources * prior.apply(sources), axis=(-2, -1))


def noise_over_peak(noise_rms, noiseless):
    """Mean noise of images over the peak without noise, [n]: by it results are told apart.

    Args:
      noise_rms: [n, rows, columns].
      noiseless: what would be observed without noise, the same shape.
    """
    return np.mean(noise_rms, axis=(-2, -1), dtype=float) / np.max(noiseless, axis=(-2, -1))


def by_noise(columns, figures_of):
    """What `figures_of` makes of all systems and of each decade of noise that there are systems of.

    Args:
      columns: {name: [n, ...]}, of which it reads noise, as of `noise_over_peak`.
      figures_of: function of the columns of some systems.

    Returns:
      {"all", "noise 0.1-1 %", "noise 1-10 %": figures}.
    """
    low = np.asarray(columns["noise"]) < 0.01
    parts = {"all": np.ones_like(low), "noise 0.1-1 %": low, "noise 1-10 %": ~low}
    return {
        name: figures_of({column: values[part] for column, values in columns.items()})
        for name, part in parts.items()
        if part.any()
    }


def summarise(columns):
    """The figures by which weights are judged, as plain numbers.

    Args:
      columns: of which it reads rms, flux_error and chi2_per_pixel, each [n].

    Returns:
      Nested dictionary of floats, and n; NaN where n is 0.
    """
    n = len(columns["rms"])
    rms, flux, chi2 = (columns[name] if n else np.array([np.nan]) for name in ("rms", "flux_error", "chi2_per_pixel"))
    return {
        "n": n,
        "rms_percent_of_peak": _spread(100 * rms),
        "flux_error_percent": {
            "median_absolute": 100 * float(np.median(np.abs(flux))),
            "bias_median": 100 * float(np.median(flux)),
            "bias_mean": 100 * float(np.mean(flux)),
        },
        "chi2_per_pixel": _spread(chi2),
    }


def _spread(values):
    p16, median, p84 = (float(value) for value in np.percentile(values, (16, 50, 84)))
    return {"median": median, "p16": p16, "p84": p84}
