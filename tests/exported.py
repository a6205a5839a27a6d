"""Small networks exported once for all tests, also for those that other processes of pytest run."""

import dataclasses
import fcntl
import functools

import keras
import modelled

# Both kinds of PSF, each function once: those that are left out differ from one of these by their PSF alone.
SIGNATURES = (
    "serving_default",
    "gaussian_psf",
    "model_gaussian_psf",
    "together_gaussian_psf",
    "log_likelihood_gaussian_psf",
    "simulate",
    "invert_gaussian_psf",
    "about",
)


@functools.cache
def networks():
    """A RIM with the weights that ship, but of two steps, and an untrained estimator and joint network."""
    import rim_tf
    from rim_tf.models.pretrained import build_model
    from rim_tf.models.rim import RIM

    trained = rim_tf.load_pretrained("small")
    rim = RIM(dataclasses.replace(trained.config, n_steps=2))
    rim.set_weights(trained.get_weights())
    keras.utils.set_random_seed(1)  # the same in all processes, whichever of them exports
    estimator = build_model(modelled.networks()[1].config)
    # Of one step: each moves a lens that makes no sense by several of its errors, and its rounding errors with it.
    return rim, estimator, build_model(dataclasses.replace(modelled.joint().config, n_steps=1))


def saved_model(tmp_path_factory):
    """The folder of their SavedModel, the version 1 of a model."""
    from rim_tf.export import export_saved_model

    base = tmp_path_factory.getbasetemp()
    shared = base.parent if base.name.startswith("popen-") else base  # of all workers of pytest-xdist
    path = shared / "exported" / "rim" / "1"
    with open(shared / "exported.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.is_dir():
            rim, estimator, joint = networks()
            provenance = {"weights": "a test"}
            export_saved_model(
                rim, path, estimator=estimator, provenance=provenance, signatures=SIGNATURES, joint=joint
            )
    return path
