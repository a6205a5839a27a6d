"""Many lenses from one catalogue: each from its image alone, as `rim_tf.inference.workflow.model` finds it.

A survey is a folder. Each lens has a folder of its name in it, with the files of `write_model`; of these summary.json
is written last, and whole: a lens that has one is finished, and a survey that was stopped goes on with the others. Then
come one table of all numbers, and contact sheets. Nothing of a lens is kept in memory but its row of the table, so a
catalogue may be of any length. Each row has its own files and pixel scale; scales, shapes and PSFs may be mixed.
"""

import contextlib
import csv
import dataclasses
import difflib
import functools
import hashlib
import json
import multiprocessing
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Iterable

import numpy as np

from rim_tf import heavy
from rim_tf.config import ModelConfig
from rim_tf.data.workers import shared_out
from rim_tf.errors import InputError, InputWarning
from rim_tf.files import check_file, finite, locked, read_json, sweep, write_json, written_whole
from rim_tf.memory import check_memory
from rim_tf.observation import check_place
from rim_tf.validation import shown

# Of a catalogue; the others in its columns are somebody else's.
NEEDED = ("name", "image", "noise", "psf")
OPTIONAL = ("mask", "pixel_scale", "no_lens_light", "centre_psf", "centre_x", "centre_y")
# The files of a lens, the last written last.
PICTURES = ("model.png", "path.png", "stages.png")
FILES = ("model.fits", *PICTURES, "lens.json", "summary.json")
# Those of `write_posterior`.
POSTERIOR = ("posterior.png", "posterior.fits", "posterior.ecsv")
_PATHS = ("image", "noise", "psf", "mask")
# Lenses on one page of the contact sheet.
_PAGE = 40
# Bytes that a table takes in memory for each of its file.
_TABLE_IN_MEMORY = 30
_WORDS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
_LONGEST_NAME = 200
# Names in the folder of a survey that are no lens's.
_OWN = re.compile(r"(table|contact_sheet)[0-9a-z_]*\.(ecsv|fits|png)")


# ---------------------------------------------------------------------------------------------- the catalogue


@dataclasses.dataclass(frozen=True)
class Row:
    """One lens of a catalogue, with what `rim_tf.io.read_observation` takes; paths begin at the catalogue's folder.

    Attributes:
      number: of the row, from 0 on.
      name: of the lens and of its folder.
      image: path, or None where the row has none.
      noise: path or number, or None.
      psf: likewise.
      mask: path, or None to use all pixels.
      pixel_scale: [arcsec], or None where the file of the image says it.
      no_lens_light: as of `ModelConfig`.
      centre_psf: as of `read_observation`.
      centre: likewise, from two columns.
      checksum: of what stands in the row.
    """

    number: int
    name: str
    image: str | None
    noise: str | float | None
    psf: str | float | None
    mask: str | None = None
    pixel_scale: object = None
    no_lens_light: bool = False
    centre_psf: bool = False
    centre: tuple[float, float] | None = None
    checksum: str = ""

    def given(self):
        """{name of an input: what was given}."""
        return {name: getattr(self, name) for name in (*_PATHS, "pixel_scale", "centre_psf", "centre")}

    def observation(self):
        """The `Observation`; InputError where the row or one of its files cannot be used."""
        from rim_tf import io

        for name in ("image", "noise", "psf"):
            if getattr(self, name) is None:
                raise InputError(f"The row has no {name}.")
        scale, centre = self.pixel_scale, self.centre
        return io.read_observation(self.image, self.noise, self.psf, self.mask, scale, self.centre_psf, centre)


def is_catalogue(path: str) -> bool:
    """Whether a file is a catalogue by its name, or a FITS file of tables without any image.

    Args:
      path: of the file; with [HDU] at its end it is an image.

    Raises:
      InputError: a file that is no FITS, or is not there.
    """
    from astropy.io import fits

    from rim_tf.io import open_fits, split_hdu

    if str(path).lower().endswith((".csv", ".ecsv")):
        return True
    path, hdu = split_hdu(path)
    if hdu is not None:
        return False
    with open_fits(path) as hdus:
        kinds = [_kind(each, fits) for each in hdus]
    return "table" in kinds and "image" not in kinds


def _kind(hdu, fits):
    if isinstance(hdu, fits.CompImageHDU):
        return "image"
    if isinstance(hdu, (fits.BinTableHDU, fits.TableHDU)):
        return "table"
    return "image" if hdu.header.get("NAXIS", 0) > 0 else "empty"


def read_catalogue(path: str) -> list[Row]:
    """The rows of a catalogue.

    Its columns are those of `NEEDED` (paths, with [HDU] allowed, relative to the catalogue's folder; noise and psf may
    be numbers) and, where wanted, of `OPTIONAL`; further ones are left alone.

    Args:
      path: of a .csv or .ecsv, or of a FITS file, whose first table is taken.

    Raises:
      InputError: a file that cannot be read as such, a column that is missing or misspelt, no rows, a name that stands
        twice or cannot be a folder's, or a word that is neither true nor false where one is wanted.
    """
    table = _read_table(path)
    _check_columns(table.colnames, path)
    if not len(table):
        raise InputError(f"{path} has no rows; each lens takes one.")
    known = [name for name in (*NEEDED, *OPTIONAL) if name in table.colnames]
    rows, numbers = [], {}
    for number, line in enumerate(table):
        where = f"{path}, row {number + 1}"
        row = _row(number, {name: _cell(line[name], f"{where}: {name}") for name in known}, path, where)
        if row.name in numbers:
            raise InputError(
                f"{path} has the name {shown(row.name)} in rows {numbers[row.name] + 1} and {number + 1}; each lens "
                "needs one of its own, since its folder is called so."
            )
        numbers[row.name] = number
        rows.append(row)
    return rows


def _read_table(path):
    """An astropy Table; of a .csv all its values are text, as a name of digits may begin with 0."""
    from astropy.table import Table

    suffix = pathlib.Path(path).suffix.lower()
    check_memory(_TABLE_IN_MEMORY * check_file(path), f"Reading {path}", "split it into several catalogues")
    if suffix == ".csv":
        _check_header(path)
    settings = {".csv": {"format": "ascii.csv", "converters": {"*": str}}, ".ecsv": {"format": "ascii.ecsv"}}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # units that astropy does not know, and more that is not asked for here
            table = Table.read(path, **settings.get(suffix, {"format": "fits"}))
            table.convert_bytestring_to_unicode()
    except Exception as error:  # readers of three formats have errors of all kinds
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} cannot be read as a catalogue ({reason or type(error).__name__}).") from None
    return table


def _check_header(path):
    """Of a .csv, what astropy would pass over or say in its own words."""
    try:
        with open(path, encoding="utf-8", errors="replace", newline="") as file:
            names = next((line for line in csv.reader(file) if line), None)
    except (OSError, csv.Error):  # which is said with what else cannot be read
        return
    if names is None:
        raise InputError(f"{path} is empty; a catalogue has the names of its columns in the first line.")
    names = [name.strip() for name in names]
    twice = next((name for name in names if name in (*NEEDED, *OPTIONAL) and names.count(name) > 1), None)
    if twice is not None:
        raise InputError(f"{path} has the column {twice} twice; leave one of them away.")
    mark = next((mark for mark in (";", "\t", "|") if len(names) == 1 and mark in names[0]), None)
    if mark is not None:
        raise InputError(f"{path} has {shown(mark)} between its columns; put commas there, as the name .csv says.")


def _check_columns(found, path):
    missing = [name for name in NEEDED if name not in found]
    absent = {name.lower(): name for name in (*NEEDED, *OPTIONAL) if name not in found}
    for name in found:
        if name in (*NEEDED, *OPTIONAL):
            continue
        meant = difflib.get_close_matches(name.strip().lower().replace(" ", "_"), absent, n=1)
        if meant:
            raise InputError(f"{path} has a column {shown(name)}, did you mean {absent[meant[0]]!r}? Rename it.")
    if missing:
        raise InputError(
            f"{path} lacks the column{'s' if len(missing) > 1 else ''} {', '.join(missing)}; it must have "
            f"{', '.join(NEEDED)}, and may have {', '.join(OPTIONAL)}."
        )


def _cell(value, where):
    """A value as plain Python has it; None where the cell is empty."""
    if value is np.ma.masked:
        return None
    if np.ndim(value) > 0:
        raise InputError(f"{where} holds an array; wanted is one value for each lens.")
    value = value.item() if isinstance(value, np.generic) else value
    if isinstance(value, str):
        return value.strip() or None
    return None if isinstance(value, float) and np.isnan(value) else value


def _row(number, cells, path, where):
    from rim_tf.io import number_or_path

    name = _checked_name(cells.pop("name"), where)
    values = {key: cells.get(key) for key in _PATHS}
    for key in ("noise", "psf"):
        values[key] = None if values[key] is None else number_or_path(values[key])
    if cells.get("pixel_scale") is not None:
        values["pixel_scale"] = number_or_path(cells["pixel_scale"])
    for key in ("no_lens_light", "centre_psf"):
        values[key] = _truth(cells.get(key), f"{where}: {key}")
    values["centre"] = _place(cells.get("centre_x"), cells.get("centre_y"), where)
    checksum = hashlib.sha256(repr([name, *values.values()]).encode(errors="surrogateescape")).hexdigest()
    folder = os.path.dirname(path)
    for key in _PATHS:
        if values[key] is not None and not isinstance(values[key], float):
            values[key] = os.path.join(folder, str(values[key]))
    return Row(number, name, **values, checksum=checksum)


def _checked_name(value, where):
    name = "" if value is None else str(value)
    bad = re.search(r"[/\\\x00-\x1f\x7f]", name) or name[:1] in ("", ".") or _OWN.fullmatch(name)
    if bad or len(os.fsencode(name)) > _LONGEST_NAME:
        raise InputError(
            f"{where} has the name {shown(name)}, which cannot be that of a folder of a lens; take letters, digits, - "
            "and _."
        )
    return name


def _place(x, y, where):
    if x is None and y is None:
        return None
    if x is None or y is None:
        raise InputError(f"{where} has one of centre_x and centre_y and not the other; give both or none.")
    return check_place((x, y), f"{where}: centre_x, centre_y")


def _truth(value, where):
    if value is None:
        return False
    word = str(value).lower()
    if word not in _WORDS:
        raise InputError(f"{where} is {shown(value)}; it must be true or false.")
    return _WORDS[word]


# ------------------------------------------------------------------------------------------- the files of a lens


def write_model(folder, result, config, given, pictures=True, truth=None, more=None):
    """The files of a lens that was found from its image: FILES, and POSTERIOR where it has one.

    Args:
      folder: where to write, an existing folder.
      result: `rim_tf.inference.workflow.ModelResult`.
      config: the `ModelConfig` that it was found with.
      given: name of an input -> what was given, a path, a number or None.
      pictures: whether to draw PICTURES.
      truth: the true lens, or None.
      more: further values for summary.json.

    Returns:
      What summary.json holds.

    Raises:
      InputError: a file cannot be written.
    """
    from rim_tf import io
    from rim_tf.inference import optimise

    fit, light, centre = result.source_fit, result.lens_light, result.observation.centre
    summary = result.summary()
    if light is not None:
        summary["lens_light_model"] = _moved_light(light.parameters, centre)
    if result.posterior is not None:
        summary["posterior"] = result.posterior.summary()
    history, ends = _moved_path(result, centre)
    summary |= {
        "pixel_scale": fit.observation.pixel_scale,
        "centre_x": centre[0],
        "centre_y": centre[1],
        "lens_fit": {"history": history, "ends": ends, "covariance": result.lens_fit.covariance},
        **({} if truth is None else {"true_lens": truth.to_dict()}),
        "settings": dataclasses.asdict(config),
        "input": given,
        "versions": io.versions(),
        **(more or {}),
    }
    # The centre has cards of its own.
    named = {name: value for name, value in given.items() if value is not None and name != "centre"}
    provenance = {f"IN_{name.upper()[:5]}": value for name, value in named.items()}
    provenance |= {
        "METHOD": ("rim", "how the source was found"),
        "LENSFIT": (not config.fast, "whether the lens was fitted to the data"),
        "BELIEVED": (result.verdict.believed, "whether no test speaks against the model"),
        "FLAGS": (" ".join(result.verdict.flags), "tests that do"),
        "SKY": (result.sky_level, "what was taken off the whole image, in its unit"),
        "SKYNOISE": (result.verdict.sky_noise, "rms of empty sky in units of NOISE"),
        "NOISECOR": (result.verdict.correlation_ratio, "noise of many pixels over that of independent ones"),
    }
    light = None if light is None else light.model_image
    middle = None if light is None else optimise.middle(light, fit.observation.shape)
    io.write_reconstruction(fit, folder / "model.fits", config.weights, middle, provenance)
    if pictures:
        _draw(folder, result, light, history, summary, truth)
    if result.posterior is not None:
        write_posterior(folder, [result.posterior], truth, pictures)
    io.write_lens(result.lens, folder / "lens.json")
    write_json(folder / "summary.json", summary)
    return summary


def write_posterior(folder, found, truth=None, pictures=True):
    """The draws as posterior.ecsv and posterior.fits, and all pairs of parameters as posterior.png.

    Args:
      folder: where to write, an existing folder.
      found: list of `rim_tf.inference.lens_samples.LensSamples`, of one mass model.
      truth: the true lens, or None.
      pictures: whether to draw.
    """
    from astropy.table import Table, vstack

    from rim_tf.inference.methods import find_method
    from rim_tf.plots import plot_posterior

    tables, panels, names = [], {}, found[0].lens.mass.names
    for each in found:
        table = Table(each.samples, names=names)
        table["method"] = each.method
        tables.append(table)
        method = find_method(each.method)
        panels[f"{method.label}, {each.sampler}"] = (each.samples, method.colour, names)
    samples = vstack(tables)
    for name, mean, std in zip(names, found[0].mean, found[0].standard_deviation, strict=True):
        samples.meta[name] = f"{mean:.6g} +- {std:.3g}"
    samples.write(folder / "posterior.ecsv", format="ascii.ecsv", overwrite=True)
    samples.meta = {name[:8]: value for name, value in samples.meta.items()}
    samples.write(folder / "posterior.fits", overwrite=True)
    if pictures:
        plot_posterior(panels, truth).savefig(folder / "posterior.png", dpi=100)


def _moved_path(result, centre):
    """The lenses of a fit's history and of its ends in the coordinates of the whole frame."""
    from rim_tf.lens import lens_of

    def moved(lens):
        return lens_of(result.lens.mass, lens).moved(centre).as_tuple()

    ends = result.lens_fit.ends
    history = [step | {"lens": moved(step["lens"])} for step in result.path]
    return history, ends | {"lens": [moved(lens) for lens in ends["lens"]]}


def _moved_light(parameters, centre):
    """`parameters` of a `LensLightFit`, likewise."""
    x, y = centre
    middle = parameters["centre"]
    return parameters | {
        "centre": [middle[0] + x, middle[1] + y],
        "components": [each | {"x": each["x"] + x, "y": each["y"] + y} for each in parameters["components"]],
    }


def _draw(folder, result, light, history, summary, truth):
    from rim_tf import plots

    centre = result.observation.centre
    others = {"estimator's": result.estimate.lens}
    if truth is not None:
        others["true"] = truth.moved([-each for each in centre])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # of what the fit has left behind
        behind = dict(zip(others, result.behind(list(others.values())), strict=True))
    stages = {"estimator's": behind.pop("estimator's"), "fitted": result.lens_fit.reconstruction, **behind}
    # Nobody has fitted the others: one of which nothing comes is no reason to have no picture of the fit.
    stages = {name: fit for name, fit in stages.items() if np.isfinite(fit.source).all()}
    errors = summary["lens_error"], summary["estimate_error"]
    estimate = result.estimate.lens.moved(centre)
    figures = {
        "model.png": plots.plot_model(result.source_fit, result.observation, light),
        "path.png": plots.plot_path(history, result.lens, errors[0], estimate, errors[1], truth),
        "stages.png": plots.plot_stages(stages, truth),
    }
    for name, figure in figures.items():
        with written_whole(folder / name) as unfinished:
            figure.savefig(unfinished)


@contextlib.contextmanager
def heard(quiet=False):
    """Within the block the sentences of all InputWarnings are added to the list that it gives, each once.

    Args:
      quiet: whether they are kept from being said besides.
    """
    said = []
    with warnings.catch_warnings():
        warnings.simplefilter("always", InputWarning)
        usual = warnings.showwarning

        def show(message, category, *where, **more):
            if issubclass(category, InputWarning) and str(message) not in said:
                said.append(str(message))
            if not (quiet and issubclass(category, InputWarning)):
                usual(message, category, *where, **more)

        warnings.showwarning = show
        yield said


# ------------------------------------------------------------------------------------------------- the survey


@dataclasses.dataclass(frozen=True)
class Job:
    """What `model_row` needs; it goes to another process."""

    row: Row
    out: pathlib.Path
    config: ModelConfig
    checksums: tuple[str, str, str | None]
    pictures: bool
    fingerprint: dict
    threads: int


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What a survey came to.

    Attributes:
      rows: of the table, a dictionary for each lens, in the order of the catalogue.
      n_before: how many of them were finished by an earlier run.
      files: that were written for all lenses together.
    """

    rows: list
    n_before: int
    files: list

    @property
    def dead(self):
        """Those that came to nothing."""
        return [row for row in self.rows if row["dead"]]


def run(
    rows: Iterable[Row],
    out: str | pathlib.Path,
    config: ModelConfig | None = None,
    pictures: bool = True,
    workers: int = 1,
    shard: tuple[int, int] | None = None,
    overwrite: bool = False,
    work: Callable | None = None,
) -> Outcome:
    """Find every lens of a catalogue, or go on with it, and write the table and the contact sheets.

    A lens that cannot be found is a row with its `error`, and is tried again by the next run.

    Args:
      rows: of `read_catalogue`.
      out: folder of the survey.
      config: `ModelConfig`; None takes its defaults.
      pictures: whether each lens that is still to be found gets its pictures.
      workers: processes; 1 does the work in this one.
      shard: (i, n) does row k where k modulo n is i, and puts i_of_n into the names of the table and the sheets. The
        runs of all n may go on at once, into one folder.
      overwrite: whether lenses are found anew whose row, files or settings were others when they were found.
      work: `model_row`, or a function around it that prepares a process for it.

    Returns:
      `Outcome`.

    Raises:
      InputError: no such weights or shard, a folder that cannot be used, a lens that was found with other settings, a
        table of other lenses, or not one lens that could be found.
    """
    config, out, work = config or ModelConfig(), pathlib.Path(out), work or model_row
    rows, suffix = _share(list(rows), shard)
    checksums = _checksums(config)
    with _folder(out, alone=shard is None):
        _check_table(out / f"table{suffix}.ecsv", rows, overwrite)
        settings = _settings_checksum(config, checksums)
        found, jobs = {}, []
        threads = max(1, (os.cpu_count() or 1) // workers)
        for row in rows:
            fingerprint = _fingerprint(row, settings)
            summary = _finished(out / row.name, fingerprint, overwrite)
            if summary is not None:
                found[row.name] = _numbers(row, summary)
            else:
                jobs.append(Job(row, out, config, checksums, pictures, fingerprint, threads))
        n_before = len(found)
        _do(jobs, work, workers, found)
        values = [found[row.name] for row in rows]
        files = _write_tables(out, suffix, values) + _write_sheets(out, suffix, values)
    outcome = Outcome(values, n_before, files)
    if len(outcome.dead) == len(values):
        raise InputError(
            f"None of the {len(values)} lenses could be modelled; of {values[0]['name']}: "
            f"{values[0]['error'].rstrip('.')}. All reasons are in {files[0]}."
        )
    return outcome


def _share(rows, shard):
    """The rows of a shard, and what the names of its files end in."""
    if shard is None:
        return rows, ""
    i, n = shard
    if not 0 <= i < n:
        raise InputError(f"The shard is {i}/{n}; of n shards, i/n is one of 0/n to n-1/n.")
    if not rows[i::n]:
        raise InputError(f"The shard {i}/{n} has no lens, as there are {len(rows)} in all; ask for fewer shards.")
    return rows[i::n], f"_{i}_of_{n}"


@contextlib.contextmanager
def _folder(out, alone):
    """Make the folder of a survey, and where it is to be this run's alone keep others from it."""
    if out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out must be a folder.")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{out} cannot be written: {error.strerror or error}.") from None
    with locked(out) if alone else contextlib.nullcontext():
        sweep(out)
        yield


def _check_table(path, rows, overwrite):
    """A table of other lenses is another survey's."""
    if overwrite or not path.exists():
        return
    try:
        found = _read_table(path)["name"]
    except (InputError, KeyError):  # none of ours, or damaged
        return
    names = {row.name for row in rows}
    others = [str(name) for name in found if str(name) not in names]
    if others:
        raise InputError(
            f"{path} has lenses that are not in this catalogue, {', '.join(others[:3])}"
            f"{' and more' if len(others) > 3 else ''}; choose another --out, or add --overwrite."
        )


def _do(jobs, work, workers, found):
    """Put the row of each job into `found`, by its name."""
    from tqdm import tqdm

    n_dead = n_flagged = 0
    in_this = workers <= 1
    with tqdm(total=len(jobs), unit=" lenses", smoothing=0.05, disable=not jobs) as bar:
        tasks = ((job.row.name, work, job) for job in jobs)
        workers = 0 if in_this else min(workers, max(1, len(jobs)))
        for name, numbers in shared_out(tasks, workers, heavy.import_quietly):
            found[name] = numbers
            n_dead += numbers["dead"]
            n_flagged += not (numbers["dead"] or numbers["believed"])
            if numbers["dead"]:
                bar.write(f"{name}: {numbers['error']}", file=sys.stderr)
            bar.set_postfix_str(f"{n_flagged} flagged, {n_dead} dead", refresh=False)
            bar.update()


def model_row(job: Job) -> dict:
    """One lens of a survey, from its files to its files; what the workers do.

    Args:
      job: `Job`.

    Returns:
      Its row of the table, a dictionary; one with an `error` where the lens came to nothing.
    """
    import tensorflow as tf

    from rim_tf.inference import workflow

    row, folder = job.row, job.out / job.row.name
    # What data can do. An error of another kind is ours, and stops the survey.
    unusable = (InputError, OSError, MemoryError, ArithmeticError, np.linalg.LinAlgError, tf.errors.OpError)
    config = dataclasses.replace(job.config, no_lens_light=job.config.no_lens_light or row.no_lens_light)
    made = not folder.exists()
    if not made:  # what is there is of other settings; a lens that dies now leaves no result that looks finished
        with locked(folder):
            (folder / "summary.json").unlink(missing_ok=True)
    try:
        with heard(quiet=True) as said:
            observation = row.observation()
            result = workflow.model(observation, config, None, *_networks(config.networks, job.checksums, job.threads))
            folder.mkdir(exist_ok=True)
            with locked(folder):
                for name in reversed(
                    (*POSTERIOR, *FILES)
                ):  # summary.json first: half of the new files are no finished lens
                    (folder / name).unlink(missing_ok=True)
                more = {"warnings": said, "fingerprint": job.fingerprint}
                summary = write_model(folder, result, config, row.given(), job.pictures, more=more)
    except unusable as error:
        if made:
            with contextlib.suppress(OSError):
                folder.rmdir()
        return _numbers(row, error=_sentence(error))
    # As the file has them, so that the table is the same where this run is the second.
    return _numbers(row, json.loads(json.dumps(finite(summary))))


def _sentence(error):
    """Of an error, on one line."""
    if isinstance(error, MemoryError):
        return "The memory is not enough; cut out the region around the lens."
    text = " ".join(str(error).split())[:1000]
    return text if isinstance(error, InputError) else f"{type(error).__name__}: {text}"


@functools.lru_cache(maxsize=1)
def _networks(names, checksums, threads):
    """Those of `ModelConfig.networks`, loaded once in a process; `checksums` tells apart files of the same name."""
    import tensorflow as tf

    from rim_tf.inference import workflow

    if multiprocessing.parent_process() is not None:
        # Many processes share this machine; and what the user's environment says goes first.
        if "TF_NUM_INTRAOP_THREADS" not in os.environ:
            tf.config.threading.set_intra_op_parallelism_threads(threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    return workflow.networks(*names)


# --------------------------------------------------------------------------------------- what is finished already


def _checksums(config):
    from rim_tf.models.pretrained import checksum_of

    kinds = zip(config.networks, ("rim", "estimator", "joint"), strict=True)
    return tuple(None if name is None else checksum_of(name, kind) for name, kind in kinds)


def _settings_checksum(config, checksums):
    """Of all that the numbers follow from beside a lens's own row and files; the names of weights do not count."""
    from rim_tf import __version__

    settings = dataclasses.asdict(config) | dict(zip(("weights", "estimator", "joint"), checksums, strict=True))
    text = json.dumps({"version": __version__, **settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _fingerprint(row, settings):
    """Of one lens: its row, the settings, and size and time of each of its files that is there."""
    from rim_tf.io import split_hdu

    found = {"row": row.checksum, "settings": settings}
    for name in _PATHS:
        path = getattr(row, name)
        if isinstance(path, str):
            with contextlib.suppress(OSError, ValueError):
                status = os.stat(split_hdu(path)[0])
                found[name] = [status.st_size, status.st_mtime_ns]
    return found


_CHANGED = {"row": "another row of the catalogue", "settings": "other settings or weights"}


def _finished(folder, fingerprint, overwrite):
    """What summary.json of a lens holds; None where it is to be found (again)."""
    path = folder / "summary.json"
    try:
        summary = read_json(path) if path.exists() else None
    except InputError:  # damaged by others, as we write it whole
        return None
    if not isinstance(summary, dict):
        return None
    known = summary.get("fingerprint")
    known = known if isinstance(known, dict) else {}
    # What a lens was found from may be gone by now, and the lens stays found.
    changed = [name for name, value in fingerprint.items() if known.get(name) != value]
    if not changed:
        return summary
    if overwrite:
        return None
    raise InputError(
        f"{folder} holds the lens {folder.name} as it was found with "
        f"{_CHANGED.get(changed[0], f'another file of its {changed[0]}')}; choose another --out, or add --overwrite to "
        "find such lenses anew."
    )


# ------------------------------------------------------------------------------------------ the table and the sheets


def _numbers(row, summary=None, error=""):
    """The row of the table that a lens has: numbers, booleans, its name and its error."""
    from rim_tf.inference.verdict import LIMITS
    from rim_tf.lens import lens_from_dict

    flags = () if summary is None else summary["flags"]
    # Readers of tables take an empty text for one that is missing, so `dead` says it too.
    found = {"row": row.number, "name": row.name, "error": error, "dead": bool(error)}
    found["believed"] = summary is not None and bool(summary["believed"])
    found |= {f"flag_{name}": name in flags for name in LIMITS}
    if summary is None:
        return found
    lens, estimate = (lens_from_dict(summary[name]) for name in ("lens", "estimate"))
    for prefix, each, errors in (
        ("", lens, summary["lens_error"]),
        ("estimate_", estimate, summary["estimate_error"]),
    ):
        for name, value in each.named().items():
            found |= {f"{prefix}{name}": value, f"{prefix}{name}_error": errors[name]}
    found["q"], found["phi"] = lens.shape
    found |= {f"{name}_error": each["error"] for name, each in summary.get("source_errors", {}).items()}
    found["n_warnings"] = len(summary.get("warnings", ()))
    found |= {f"test_{name}": value for name, value in summary["tests"].items()}
    # None is what JSON has for a number that is none.
    scalar = {name: value for name, value in summary.items() if value is None or isinstance(value, (bool, int, float))}
    return found | {name: value for name, value in scalar.items() if name not in found}


def flags_of(numbers):
    """Names of the flags in a row of the table."""
    return [key.removeprefix("flag_") for key, value in numbers.items() if key.startswith("flag_") and value]


def _write_tables(out, suffix, rows):
    """table.ecsv and table.fits, which are the same but for letters that FITS does not know."""
    from astropy.table import Table

    names = list(dict.fromkeys(name for row in rows for name in row))
    table = Table({name: _column([row.get(name) for row in rows]) for name in names})
    for name in names:
        table[name].unit = _unit(name)
    plain = table.copy()
    for name in ("name", "error"):
        plain[name] = [text.encode("ascii", "backslashreplace").decode() for text in table[name]]
    written = []
    for kind, each, how in (("ecsv", table, "ascii.ecsv"), ("fits", plain, "fits")):
        path = out / f"table{suffix}.{kind}"
        with written_whole(path) as unfinished:
            each.write(unfinished, format=how)
        written.append(path)
    return written


def _column(values):
    """An array of one type; of a lens without a number NaN, 0 or False."""
    kinds = {type(value) for value in values if value is not None}
    if str in kinds:
        return np.array(values)
    if kinds == {bool}:
        return np.array([bool(value) for value in values])
    if kinds == {int}:
        return np.array([value or 0 for value in values])
    return np.array([np.nan if value is None else float(value) for value in values])


_LENGTHS = (
    "theta_E",
    "x_lens",
    "y_lens",
    "pixel_scale",
    "source_pixel_scale",
    "half_light_radius",
    "centre_x",
    "centre_y",
)


def _unit(name):
    name = name.removeprefix("estimate_").removesuffix("_error")
    if name in _LENGTHS:
        return "arcsec"
    return {"phi": "rad", "seconds": "s"}.get(name)


def _write_sheets(out, suffix, rows):
    """The pages of the contact sheet, of which later ones of an earlier run do not stay."""
    from rim_tf.plots import plot_contact_sheet

    written = []
    for first in range(0, len(rows), _PAGE):
        path = _sheet(out, suffix, len(written) + 1)
        figure = plot_contact_sheet([_entry(out, row) for row in rows[first : first + _PAGE]])
        with written_whole(path) as unfinished:
            figure.savefig(unfinished)
        written.append(path)
    page = len(written) + 1
    while (left_over := _sheet(out, suffix, page)).exists():
        left_over.unlink()
        page += 1
    return written


def _sheet(out, suffix, page):
    return out / f"contact_sheet{suffix}{f'_{page}' if page > 1 else ''}.png"


def _entry(out, numbers):
    """What `plots.plot_contact_sheet` shows of a lens, read back from its files."""
    from rim_tf import io
    from rim_tf.plots import SmallPictures

    name, path = numbers["name"], out / numbers["name"] / "model.fits"
    if numbers["dead"]:
        return name, False, numbers["error"]
    flags = ", ".join(flags_of(numbers))
    title = f"{name}: {flags}" if flags else name
    try:
        (image, scale), (noise, _), (residual, _), (source, source_scale) = (
            io.read_image(path, hdu) for hdu in ("DATA", "NOISE", "RESIDUAL", "SOURCE")
        )
        # The pictures are about their own middle.
        lens = io.read_lens(out / name / "lens.json").moved((-numbers["centre_x"], -numbers["centre_y"]))
    except InputError as error:
        return title, numbers["believed"], str(error)
    noise_rms = float(np.nanmedian(noise))
    return title, numbers["believed"], SmallPictures(image, noise_rms, residual, scale, source, source_scale, lens)
