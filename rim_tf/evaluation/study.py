"""The test of Section 3: lenses and galaxies that no training has seen, reconstructed by every method.

A study is a folder (`rim_tf.evaluation.store`). Its systems are drawn in chunks from (seed, index of the chunk), and
what a method reaches on some of them is one file: a study that was stopped goes on, and one of 2000 systems begins with
the same systems as one of 20.
"""

import contextlib
import dataclasses
import functools
import json
import warnings

import numpy as np

from rim_tf.data.mocks import GalaxyStamps
from rim_tf.data.seeds import seed_pair
from rim_tf.data.single import draw_system, observe_system
from rim_tf.data.sources.drawings import draw_digit, draw_text, read_digits
from rim_tf.data.sources.find import find_galaxies
from rim_tf.data.streaming import Simulator
from rim_tf.errors import InputError, InputWarning
from rim_tf.evaluation import measures, store
from rim_tf.evaluation.store import Store
from rim_tf.inference.linear.regularisation import Regularisation
from rim_tf.inference.methods import find_method
from rim_tf.lens import LensParameters
from rim_tf.observation import Observation
from rim_tf.physics.imaging import imaging_operator
from rim_tf.results import half_light_radius

_N_PROCEDURAL = 1000
# What the sources of Figure 10 are shown with; `mocks` has the same on average.
_UNUSUAL_NOISE, _UNUSUAL_PSF = 0.01, 0.05
TEXT = "STRONG\nLENSING\n2026"


@dataclasses.dataclass(frozen=True)
class System:
    """One simulated lens and its truth.

    Attributes:
      observation: what a method is given.
      lens: likewise.
      truth: the source, [n, m].
      noiseless: the image without noise, [rows, columns].
      source_pixel_scale: [arcsec].
    """

    observation: Observation
    lens: LensParameters
    truth: np.ndarray
    noiseless: np.ndarray
    source_pixel_scale: float


class Study:
    """A study in a folder: `run` and `run_unusual` do what is missing of it.

    Args:
      out: the folder; a new one, or one of a study with the same settings.
      config: `StudyConfig`.

    Raises:
      InputError: the folder holds a study with other settings, or other files; or there are no galaxies.
    """

    def __init__(self, out, config):
        if config.mocks.lens_error:
            raise InputError("A study is of lenses that are known; lens_error must be 0.")
        self.config, self.store = config, Store(out)
        shape = (config.mocks.source_pixels, config.mocks.source_pixels)
        self._prior = Regularisation(config.regularisation, config.boundary, shape)
        self._drawn = None, []
        if not self.store.begun(config):
            # Where there are none it is said now, before anything is written; an older file may hold others.
            galaxies = self._galaxies = unseen_galaxies(config.sources, config.seed)
            self.store.begin(config, None if config.sources is None else galaxies)

    @functools.cached_property
    def _galaxies(self):
        kept = None if self.config.sources is None else self.store.galaxies()
        return unseen_galaxies(self.config.sources, self.config.seed) if kept is None else kept

    @functools.cached_property
    def _stamps(self):
        return GalaxyStamps(self._galaxies.images, self._galaxies.half_light_radius)

    def draw(self, first, n):
        """`System`s of the study.

        Args:
          first: number of the first.
          n: how many.
        """
        return [self._chunk(number // store.CHUNK)[number % store.CHUNK] for number in range(first, first + n)]

    def _chunk(self, index):
        """All systems of a chunk; the last one is kept, as methods ask for it in parts."""
        if self._drawn[0] != index:
            seed = seed_pair("study", self.config.seed)
            simulator = Simulator(seed, store.CHUNK, self._stamps, self.config.mocks)
            self._drawn = index, _systems(*simulator(index))
        return self._drawn[1]

    def run(self, name, solver, n, progress=None):
        """Reconstruct the first n systems by a method, as far as it has not been done.

        Args:
          name: of the method, a key of METHODS.
          solver: its `rim_tf.inference.methods.Solver`. Results with other settings have files of their own.
          n: how many systems.
          progress: is called with the number of systems done since the last call.
        """
        method, key = find_method(name), self.store.use(name, solver)
        at_once = min(method.systems_at_once, store.CHUNK)
        for first in range(0, n, at_once):
            size = min(at_once, n - first)
            if self.store.count(key, first) < size:
                systems = self.draw(first, size)
                results = _solve(systems, solver)
                columns = self._columns(method, systems, results)
                kept = _worth_keeping(first, columns["rms"], at_once)
                pictures = {what: values[kept] for what, values in _pictures(systems, results).items()}
                self.store.write(key, first, columns, pictures | {"index": first + kept})
            if progress is not None:
                progress(size)

    def run_unusual(self, name, solver, mnist=None):
        """Reconstruct text and, where there are some, digits (Figure 10).

        Args:
          name: as for `run`.
          solver: as for `run`.
          mnist: path of an .npz file of digits, as for `read_digits`.
        """
        digits = {} if mnist is None else read_digits(mnist)
        method, key, names = find_method(name), self.store.use(name, solver), ["text", *digits]
        there = self.store.unusual(key)
        if there == names or (there and mnist is None):
            return
        pixels = self.config.mocks.source_pixels
        drawings = [draw_text(TEXT, pixels), *(draw_digit(image, pixels) for image in digits.values())]
        systems = [_unusual_system(i, drawing, self.config.mocks) for i, drawing in enumerate(drawings)]
        results = _solve(systems, solver)
        pictures = _pictures(systems, results) | {"index": np.arange(len(systems))}
        self.store.write_unusual(key, names, self._columns(method, systems, results), pictures)

    def _columns(self, method, systems, results):
        """All that is noted of results: what their systems are, how good they are, and the method's own figures."""
        own = {name: np.array([getattr(result, name) for result in results], float) for name in method.figures}
        return _describe(systems) | _judge(systems, results, self._prior) | own


def unseen_galaxies(where, seed=0):
    """Galaxies that no training has seen.

    Args:
      where: None for procedural galaxies; or a folder or the name of a tfds set, of which the validation split is
        taken, as `find_galaxies` does.
      seed: of procedural galaxies.

    Returns:
      `GalaxySet`, not empty.

    Raises:
      InputError: no galaxies there.
    """
    return find_galaxies(where, "validation", "study", seed, _N_PROCEDURAL)


# ------------------------------------------------------------------------------------------- systems and results


def _systems(inputs, source):
    """`System`s of a batch as `simulate_batch` returns it."""
    noiseless = imaging_operator(inputs, source.shape[1:]).forward(source).numpy()
    inputs, source = {name: value.numpy() for name, value in inputs.items()}, source.numpy()
    return [
        System(
            Observation(
                inputs["image"][i],
                inputs["noise_rms"][i],
                float(inputs["psf"][i]) if inputs["psf"].ndim == 1 else inputs["psf"][i],
                inputs["mask"][i].astype(bool),
                float(inputs["pixel_scale"][i]),
            ),
            LensParameters(*map(float, inputs["lens"][i])),
            source[i],
            noiseless[i],
            float(inputs["source_pixel_scale"][i]),
        )
        for i in range(len(source))
    ]


def _unusual_system(number, source, mocks):
    """A drawing behind a lens of the study's kind."""
    pixel_scale = float(np.sqrt(np.prod(mocks.log_pixel_scale)))
    source, stream = (source, pixel_scale * mocks.source_scale_ratio), "study: drawings"
    lens, source, source_scale = draw_system(number, mocks.image_pixels, pixel_scale, source=source, stream=stream)
    observation, noiseless = observe_system(
        number, lens, source, source_scale, mocks.image_pixels, pixel_scale, _UNUSUAL_NOISE, _UNUSUAL_PSF, stream
    )
    return System(observation, lens, source, noiseless, source_scale)


def _solve(systems, solver):
    """`SourceFit`s of `System`s on the grids of their truths, those on equal grids together."""
    results = [None] * len(systems)
    with _silence():
        for scale in sorted({system.source_pixel_scale for system in systems}):
            members = [i for i, system in enumerate(systems) if system.source_pixel_scale == scale]
            observations, lenses = [systems[i].observation for i in members], [systems[i].lens for i in members]
            pixels = systems[members[0]].truth.shape[0]
            for i, result in zip(members, solver(observations, lenses, scale, pixels), strict=True):
                results[i] = result
    for system, result in zip(systems, results, strict=True):
        if result.source.shape != system.truth.shape:
            raise InputError(
                f"The sources of the study are {system.truth.shape}, and the method gives {result.source.shape}; "
                "choose source_pixels that all methods take, multiples of a network's stride for instance."
            )
    return results


@contextlib.contextmanager
def _silence():
    """Without InputWarnings: that a little light comes from beyond the source grid is part of the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)
        yield


def _describe(systems):
    """What the results are broken down by, and what tells systems apart: {name: [n, ...]}."""
    observations = [system.observation for system in systems]
    scale = np.array([system.source_pixel_scale for system in systems])
    area_ratio = np.array([each.pixel_scale for each in observations]) ** 2 / scale**2
    source_flux = np.array([system.truth.sum(dtype=float) for system in systems])
    image_flux = np.array([system.noiseless.sum(dtype=float) for system in systems])
    noiseless = np.stack([system.noiseless for system in systems])
    return {
        "noise": measures.noise_over_peak(np.stack([each.noise for each in observations]), noiseless),
        "magnification": image_flux / source_flux * area_ratio,
        "half_light_radius": np.array([half_light_radius(system.truth) for system in systems]) * scale,
        # As text, since lenses may have any parameters.
        "lens": np.array([json.dumps(system.lens.to_dict()) for system in systems]),
        "theta_E": np.array([system.lens.theta_E for system in systems]),
        "pixel_scale": np.array([each.pixel_scale for each in observations]),
        "psf_sigma": np.array([each.psf if isinstance(each.psf, float) else np.nan for each in observations]),
        "field": scale * np.array([system.truth.shape[0] for system in systems]),
        "true_flux": source_flux * scale**2,
    }


def _judge(systems, results, prior):
    """All `measures` of results, and of the true images what the data allow, to measure the rest against."""
    truth = np.stack([system.truth for system in systems])
    estimate = np.stack([result.source for result in results])
    data, noise, mask = (
        np.stack([getattr(system.observation, name) for system in systems]) for name in ("image", "noise", "mask")
    )
    of_truth = measures.of_images(np.stack([system.noiseless for system in systems]), data, noise, mask)
    return {
        **measures.of_sources(truth, estimate),
        **measures.of_images(np.stack([result.model_image for result in results]), data, noise, mask),
        **measures.of_prior(truth, estimate, prior),
        **{f"truth_{name}": values for name, values in of_truth.items()},
        "seconds": np.array([result.seconds for result in results], float),
    }


def _pictures(systems, results):
    """All that can be shown of each: {name: [n, ...]}."""
    observations = [system.observation for system in systems]
    pictures = {
        "image": [each.image for each in observations],
        "noise": [each.noise for each in observations],
        "truth": [system.truth for system in systems],
        "source": [result.source for result in results],
        "model": [result.model_image for result in results],
    }
    stacked = {name: np.stack(values).astype(np.float32) for name, values in pictures.items()}
    return stacked | {"mask": np.stack([each.mask for each in observations])}


def _worth_keeping(first, rms, at_once):
    """Which of a file's systems to keep pictures of: of the first chunk all, the examples; later the worst.

    Args:
      first: number of the file's first system.
      rms: error of each, [n].
      at_once: systems in a whole file of this method; of files of few the worst of each would be too many.
    """
    if first < store.CHUNK:
        return np.flatnonzero(first + np.arange(len(rms)) < store.CHUNK)
    return np.array([np.argmax(rms)]) if at_once == store.CHUNK else np.arange(0)
