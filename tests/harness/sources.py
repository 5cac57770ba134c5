"""Sources of Python modules that tests write."""

import subprocess
import sys
import textwrap
from pathlib import Path


def line_of(source: str, text: str) -> int:
    """Return the number of the first line of `source`, as the fixture `custom` writes it, that has `text`."""
    lines = textwrap.dedent(source).lstrip("\n").splitlines()
    return 1 + next(number for number, line in enumerate(lines) if text in line)


def printed_by_server_functions(text: str, folder: Path, expression: str) -> str:
    """Return what `expression` of `functions`, made of the text of server functions, prints where FEDn runs them.

    That is a process in which neither this package nor FEDn, Keras, TensorFlow or PyYAML can be imported.
    """
    (folder / "text.py").write_text(text)
    code = (
        "import sys; sys.modules.update(dict.fromkeys(['fedn_partial', 'fedn', 'keras', 'tensorflow', 'yaml']))\n"
        "namespace = {}; exec(open('text.py').read(), {}, namespace)\n"
        f"functions = namespace['ServerFunctions'](); print({expression})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout
