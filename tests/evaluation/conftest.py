"""A made-up study, whose numbers are known."""

import json

import numpy as np
import pytest

N, PIXELS = 60, 12
SETTINGS = {
    "rim_tf": "0",
    "mocks": {"image_pixels": PIXELS, "source_pixels": PIXELS, "log_noise": [1e-3, 1e-1]},
    "seed": 0,
    "sources": None,
    "regularisation": "gradient",
    "boundary": "zero",
    "methods": {
        "rim": {"settings": {"weights": "made <up>"}, "key": "rim-0"},
        "inversion": {"settings": {"regularisation": "gradient", "boundary": "zero", "strength": None}, "key": "inv-0"},
    },
}
LENS = {"theta_E": 1.0, "e1": 0.1, "e2": 0, "x_lens": 0, "y_lens": 0, "gamma1": 0, "gamma2": 0}


def made_up(rng, n, rms, chi2, roughness, seed=0):
    """Columns of n systems of one method. Those that describe a system are the same for the same number."""
    of_systems = np.random.default_rng(seed)
    common = {
        "noise": np.geomspace(1.1e-3, 0.099, N)[of_systems.permutation(N)],
        "magnification": of_systems.uniform(3, 10, N),
        "half_light_radius": of_systems.uniform(0.1, 0.4, N),
        "lens": np.full(N, json.dumps(LENS)),
        "theta_E": np.full(N, 1.0),
        "pixel_scale": np.full(N, 0.1),
        "psf_sigma": np.full(N, 0.05),
        "field": np.full(N, 0.5),
        "true_flux": of_systems.uniform(0.01, 0.1, N),
    }
    p11 = of_systems.uniform(1, 2, (N, PIXELS // 2 + 1))
    columns = {
        "rms": np.full(n, rms),
        "flux_error": rng.normal(0, 0.01, n),
        "negative_flux": np.zeros(n),
        "psnr": np.full(n, 40.0),
        "ssim": np.full(n, 0.9),
        "p12": p11[:n] * (1 - 10 * rms),
        "p11": p11[:n],
        "p22": p11[:n],
        "seconds": np.full(n, 0.1),
        "chi2_per_pixel": rng.normal(chi2, 0.01, n),
        "correlation": np.zeros(n),
        "whiteness": np.where(np.arange(n) % 4 == 0, 5.0, 0.0),
        "truth_chi2_per_pixel": np.ones(n),
        "truth_correlation": np.zeros(n),
        "truth_whiteness": rng.normal(size=n),
        "roughness": np.full(n, roughness),
        "truth_roughness": np.full(n, 100.0),
        "prior_rank": np.full(n, 200.0),
    }
    return {name: values[:n] for name, values in common.items()} | columns


def kept_of(rng, index):
    shape = (len(index), PIXELS, PIXELS)
    images = {name: rng.random(shape).astype(np.float32) for name in ("image", "truth", "source", "model")}
    return images | {"noise": np.full(shape, 0.1), "mask": np.ones(shape, bool), "index": np.array(index)}


@pytest.fixture(scope="session")
def make_up_study():
    """A function that returns what `store.read_study` does; of the first systems, so many have pictures, and two later.

    The inversion has done 30 systems, and its errors are twice those of the RIM. The truth is as rough as the prior of
    the inversion expects; the log-prior of the inversion is 84.5 above the truth's, which is 13 sigma.
    """

    def make_up(n_examples=3, later=(27, 55)):
        rng = np.random.default_rng(4)
        rim, inversion = made_up(rng, N, 0.004, 1.0, 99.98), made_up(rng, 30, 0.008, 0.95, 15.5)
        inversion |= {"strength": np.full(30, 2.0)}
        kept = {"rim": kept_of(rng, [*range(n_examples), *later]), "inversion": kept_of(rng, range(n_examples))}
        unusual = {}
        for method in ("rim", "inversion"):
            unusual[method] = {"names": np.array(["text", "digit 4"]), "rms": [0.03, 0.02]}
            unusual[method] |= {"chi2_per_pixel": [1.2, 1.1]}
            unusual[method] |= {f"kept_{name}": value for name, value in kept_of(rng, [0, 1]).items()}
        return SETTINGS, {"rim": rim, "inversion": inversion}, kept, unusual

    return make_up


@pytest.fixture
def made_up_study(make_up_study):
    return make_up_study()
