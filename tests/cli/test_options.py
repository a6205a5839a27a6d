import dataclasses
from typing import Literal

import click
import pytest
from click.testing import CliRunner

from rim_tf.cli import options
from rim_tf.config import setting


@dataclasses.dataclass(frozen=True)
class Settings:
    name: str = setting("x", "A name.")
    kind: str = setting("b", "A kind.", choices=("a", "b"))
    many: int = setting(3, "How many.", least=2, most=5)
    wide: float | None = setting(None, "How wide.", above=0)
    bright_sky: bool = setting(False, "Whether the sky is bright.")
    colour: Literal["red", "blue"] = setting("red", "A colour.")
    hidden: float = 1.5


@click.command()
@options.options_of(Settings, many={"help": "Changed."})
def command(**arguments):
    settings = options.settings_from(Settings, arguments)
    assert arguments == {}
    click.echo(repr(settings))


def invoke(*words):
    return CliRunner().invoke(command, words)


def test_defaults_are_those_of_the_dataclass():
    assert invoke().stdout == f"{Settings()!r}\n"


def test_each_field_is_an_option_of_its_type():
    words = ["--name", "y", "--kind", "a", "--many", "2", "--wide", "0.5", "--bright-sky", "--colour", "blue"]
    assert invoke(*words).stdout == f"{Settings('y', 'a', 2, 0.5, True, 'blue')!r}\n"


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--kind", "c"], "'c' is not one of 'a', 'b'"),
        (["--colour", "green"], "'green' is not one of 'red', 'blue'"),
        (["--many", "1"], "1 is not in the range 2<=x<=5"),
        (["--many", "2.5"], "'2.5' is not a valid integer"),
        (["--wide", "0"], "0.0 is not in the range x>0"),
        (["--wide", "nan"], "nan is not a finite number"),
        (["--wide", "inf"], "inf is not a finite number"),
        (["--hidden", "2"], "No such option '--hidden'"),
    ],
)
def test_what_a_field_cannot_be_is_refused(words, complaint):
    result = invoke(*words)
    assert result.exit_code == 2 and complaint in result.stderr


def test_help_has_what_is_known_of_each_field():
    text = " ".join(invoke("--help").stdout.split())
    for part in (
        "A name. [default: x]",
        "--kind [a|b]",
        "Changed. [default: 3; 2<=x<=5]",
        "Whether the sky is bright.",
    ):
        assert part in text
    assert "hidden" not in text
