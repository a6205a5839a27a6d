"""Options that commands share, and options made from a dataclass of settings, which alone holds their defaults."""

import dataclasses
import math
import pathlib
import types
import typing

import click

from rim_tf.validation import LARGEST_SEED


class Number(click.FloatRange):
    """A finite number in a range."""

    def convert(self, value, param, ctx):
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return number


POSITIVE = Number(min=0, min_open=True)
SEED = click.IntRange(0, LARGEST_SEED)

overwrite = click.option("--overwrite", is_flag=True, help="Replace results that are already in the folder.")


def out(**settings):
    """The option --out, a folder, with `default` or `required` and, where it is not of results, `help`."""
    settings = {"help": "Folder of the results.", "show_default": "default" in settings} | settings
    return click.option("--out", type=click.Path(path_type=pathlib.Path), **settings)


def observed(required=True):
    """A decorator that gives a command the options of what makes an `Observation` beside its image.

    Args:
      required: whether noise and PSF must be given.
    """
    made = [
        click.option(
            "--noise", required=required, metavar="FITS|RMS", help="Noise map, or one rms in units of the image."
        ),
        click.option(
            "--psf",
            required=required,
            metavar="FITS|SIGMA",
            help="PSF stamp with odd sides, or a Gaussian sigma [arcsec].",
        ),
        click.option(
            "--centre-psf", is_flag=True, help="Resample a PSF stamp to odd sides with its centre in the middle pixel."
        ),
        click.option("--mask", metavar="FITS", help="Nonzero where a pixel is to be used."),
        click.option("--pixel-scale", type=POSITIVE, help="[arcsec], where the WCS of IMAGE does not say or is wrong."),
    ]

    def decorate(command):
        for option in reversed(made):
            command = option(command)
        return command

    return decorate


def options_of(settings, without=(), **changes):
    """A decorator that gives a command an option for each field of a dataclass that has a help in its metadata.

    The type of a field decides what is taken: a flag for bool, a number for int or float, words for str, those of
    `choices` where there are some, any number of them for a tuple; `| None` marks what may be left out.
    `rim_tf.config.setting` makes such fields.

    Args:
      settings: the dataclass.
      without: names of fields that get none.
      **changes: name of a field -> arguments of click.option in place of those that are made here.
    """

    def decorate(command):
        for field in reversed(fields_of(settings)):
            if field.name in without:
                continue
            arguments = _arguments(settings, field) | changes.get(field.name, {})
            command = click.option(flag(field.name), field.name, **arguments)(command)
        return command

    return decorate


def settings_from(settings, arguments):
    """An instance of a dataclass from a command's arguments, from which its own are taken away."""
    return settings(**{field.name: arguments.pop(field.name) for field in fields_of(settings)})


def fields_of(settings):
    """The fields of a dataclass that are options."""
    return [field for field in dataclasses.fields(settings) if "help" in field.metadata]


def flag(name):
    """A field's name as it is typed."""
    return f"--{name.replace('_', '-')}"


def _arguments(settings, field):
    kind, limits = typing.get_type_hints(settings)[field.name], field.metadata
    if isinstance(kind, types.UnionType):
        (kind,) = (each for each in typing.get_args(kind) if each is not type(None))
    arguments = {"help": limits["help"], "default": field.default, "show_default": field.default is not None}
    if kind is bool:
        return arguments | {"is_flag": True, "show_default": False}
    if typing.get_origin(kind) is tuple:  # given once for each of its values
        kind = typing.get_args(kind)[0]
        several = {"multiple": True, "show_default": False}
        return arguments | {"type": _type(kind, limits), "metavar": limits.get("metavar")} | several
    return arguments | {"type": _type(kind, limits), "metavar": limits.get("metavar")}


def _type(kind, limits):
    if "choices" in limits or typing.get_origin(kind) is typing.Literal:
        return click.Choice(limits.get("choices") or typing.get_args(kind))
    if kind is int:
        return click.IntRange(limits.get("least"), limits.get("most"))
    if kind is float:
        return Number(limits.get("above", limits.get("least")), limits.get("most"), min_open="above" in limits)
    return str
