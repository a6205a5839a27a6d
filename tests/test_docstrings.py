"""One argument to a line in every docstring, so that whatever makes pages of them loses none."""

import ast
import pathlib
import re

import pytest

import rim_tf

FILES = sorted(pathlib.Path(rim_tf.__file__).parent.rglob("*.py"))
_SECTION = re.compile(r"(Args|Attributes|Parameters)(, [^:]*)?:\s*$")
_ENTRY = re.compile(r"\*{0,2}\w+: ")


def faults(text):
    """Entries of a docstring's lists of arguments that are not one name with what it is."""
    inside, found = False, []
    for line in text.split("\n"):
        if not line.startswith(" "):
            inside = bool(_SECTION.match(line)) if line.strip() else inside
        elif inside and re.match(r"  \S", line):
            entry = line.strip()
            # A second name after a full stop is a second argument: "a: first. b: second".
            if not _ENTRY.match(entry) or re.search(r"[.\]] [a-z_]+: ", entry):
                found.append(entry)
    return found


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(FILES[0].parent)) for path in FILES])
def test_one_argument_to_a_line(path):
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef, ast.Module)):
            found += faults(ast.get_docstring(node) or "")
    assert not found


@pytest.mark.parametrize("entry", ["a, b: two at once.", "a: one. b: another.", "no name at all"])
def test_the_test_can_fail(entry):
    assert faults(f"Does.\n\nArgs:\n  {entry}\n\nReturns:\n  x: y. z: w.") == [entry]
    assert not faults("Does.\n\nArgs:\n  a: one, with a\n    second line.\n  **more: others.")
