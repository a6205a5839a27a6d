"""Small networks exported once for all tests, also for those that other processes of pytest run."""

import dataclasses
import fcntl
import functools

import modelled

# Both kinds of PSF, each function once: those that are left out differ from one of these by their PSF alone.
SIGNATURES = (
    "serving_default",
    "gaussian_psf",
    "model_gaussian_psf",
    "log_likelihood_gaussian_psf",
    "simulate",
    "invert_gaussian_psf",
    "about",
)


@functools.cache
def networks():
    """A RIM with the weights that ship, but of two steps, and an untrained estimator."""
    import rim_tf
    from rim_tf.models.rim import RIM

    trained = rim_tf.load_pretrained("small")
    rim = RIM(dataclasses.replace(trained.config, n_steps=2))
    rim.set_weights(trained.get_weights())
    return rim, modelled.networks()[1]


def saved_model(tmp_path_factory):
    """The folder of their SavedModel, the version 1 of a model."""
    from rim_tf.export import export_saved_model

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # of all workers of pytest-xdist
    path = shared / "exported" / "rim" / "1"
    with open(shared / "exported.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            rim, estimator = networks()
            export_saved_model(rim, path, estimator=estimator, provenance={"weights": "a test"}, signatures=SIGNATURES)
    return path
