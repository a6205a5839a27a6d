"""How good a reconstruction is (Section 3): arrays in, arrays out."""

import numpy as np


def rms_error(source, estimate):
    """Root-mean-square error over all pixels in units of the true peak: [..., n, m] each -> [...]."""
    error2 = np.mean((np.asarray(estimate, float) - source) ** 2, axis=(-2, -1))
    return np.sqrt(error2) / np.max(np.abs(source), axis=(-2, -1))


def flux_error(source, estimate):
    """Relative error of the summed surface brightness, with its sign: [..., n, m] each -> [...]."""
    flux = np.sum(source, axis=(-2, -1), dtype=float)
    return np.sum(estimate, axis=(-2, -1), dtype=float) / flux - 1


def chi2_per_pixel(data, model_image, noise_rms, mask):
    """Mean squared residual in units of the noise over the unmasked pixels: [..., rows, columns] -> [...]."""
    residual2 = np.where(mask, ((data - model_image) / noise_rms) ** 2, 0.0)
    return np.sum(residual2, axis=(-2, -1), dtype=float) / np.sum(mask, axis=(-2, -1))


def summarise(rms, flux, chi2):
    """The figures by which weights are judged, of arrays [n] as the functions above return them."""
    return {
        "n": len(rms),
        "rms_percent_of_peak": {
            "median": 100 * float(np.median(rms)),
            "p16": 100 * float(np.percentile(rms, 16)),
            "p84": 100 * float(np.percentile(rms, 84)),
        },
        "flux_error_percent": {
            "median_absolute": 100 * float(np.median(np.abs(flux))),
            "bias_median": 100 * float(np.median(flux)),
            "bias_mean": 100 * float(np.mean(flux)),
        },
        "chi2_per_pixel": {
            "median": float(np.median(chi2)),
            "p16": float(np.percentile(chi2, 16)),
            "p84": float(np.percentile(chi2, 84)),
        },
    }
