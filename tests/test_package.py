import ast
import importlib
import pathlib
import subprocess
import sys

import pytest

import rim_tf

STUB = pathlib.Path(rim_tf.__file__).with_suffix(".pyi")


def test_editors_and_python_see_the_same_names():
    imports = [node for node in ast.parse(STUB.read_text()).body if isinstance(node, ast.ImportFrom)]
    seen = {alias.asname: (node.module, alias.name) for node in imports for alias in node.names}
    assert sorted(rim_tf.__all__) == sorted(seen) and set(dir(rim_tf)) >= set(seen)
    for name, (module, original) in seen.items():
        assert name == original  # `import a as a` is what tells a type checker that a name is public
        home = importlib.import_module(f"rim_tf.{module or original}")
        assert getattr(rim_tf, name) is (getattr(home, name) if module else home)
    assert STUB.with_name("py.typed").exists()


def test_a_name_that_is_not_there_is_no_name():
    with pytest.raises(AttributeError, match="No rim_tf attribute nothing"):
        rim_tf.nothing  # noqa: B018


def test_importing_imports_nothing_else():
    code = "import sys, rim_tf; print(sorted(name for name in sys.modules if name.startswith('rim_tf')))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "['rim_tf']\n"
